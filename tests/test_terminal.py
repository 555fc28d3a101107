"""What reaches a terminal, a card and a page, where a model or a file's name may hold orders.

At a terminal control characters are shown; into a pipe they go as they are."""
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import torch
import yaml
from browser import CHROMIUM, missing, running
from hypothesis import given
from hypothesis import strategies as st

from gpt_nb import cli
from gpt_nb.cli import main, run_app, say, visible

COMMAND = [sys.executable, "-c", "from gpt_nb.cli import main; main()"]
HOSTILE = "\x1b[2J\x1b]0;title\x07 all is well\rnothing \x9b31m\u202etxt.exe\u2066 \x08\x7f"
NO_PTY = pytest.mark.skipif(sys.platform == "win32", reason="there is no pty on Windows")


class Screen(io.StringIO):
    "A stream that says it is a terminal."
    def isatty(self): return True
    def reconfigure(self, **how): pass


def obeyed(text):
    "The characters of a text that a terminal would obey, ends of lines and tabs aside."
    turn = "\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return [c for c in text if c in turn or unicodedata.category(c) == "Cc" and c not in "\n\t"]


@given(st.text())
def test_what_is_shown_gives_no_orders_and_all_else_stays(text):
    shown = visible(text)
    assert not obeyed(shown) and visible(shown) == shown
    if not obeyed(text): assert shown == text


def test_each_character_is_written_out_as_python_does():
    assert visible(HOSTILE) == (r"\x1b[2J\x1b]0;title\x07 all is well\rnothing \x9b31m\u202etxt.exe"
                                r"\u2066 \x08\x7f")
    assert visible("今天\t🙂👩\u200d🚀\né שלום\u200f") == "今天\t🙂👩\u200d🚀\né שלום\u200f"


def test_all_that_a_command_prints_passes_there(monkeypatch):
    "What the program says, what it writes, what Python itself warns of, and an error's line."
    out, err = Screen(), Screen()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    def a_command():
        say("\rsaid", HOSTILE)
        cli.write(HOSTILE)
        print(HOSTILE, 7, flush=True)
        sys.stdout.writelines([HOSTILE, "\n"])
        sys.stderr.write(f"a warning of {HOSTILE}\n")
        return run_app(["eval", f"no/{HOSTILE}"])
    monkeypatch.setattr(cli, "run_app", a_command)
    with pytest.raises(SystemExit) as end: main()
    assert end.value.code == 2 and not obeyed(out.getvalue() + err.getvalue())
    assert out.getvalue().count("\\u202e") == 3 and err.getvalue().count("\\u202e") == 3
    assert "\\rsaid" in err.getvalue()


def test_a_progress_bar_still_writes_over_itself(monkeypatch):
    from tqdm import tqdm

    screen = Screen()
    with tqdm(total=2, desc="\x1b[31mred", file=cli.Terminal(screen, bars=True), mininterval=0,
              ncols=40) as bar:
        bar.update(2)
    assert screen.getvalue().count("\r") >= 2 and "\\x1b[31mred: 100%" in screen.getvalue()
    assert set(obeyed(screen.getvalue())) == {"\r"}


def at_a_terminal(*words, send=b""):
    "What a real terminal is given by a command, and its exit code."
    import fcntl
    import pty
    import struct
    import termios

    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))   # lines, columns
    program = subprocess.Popen([*COMMAND, *words], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(mine, send)
    shown = b""
    while True:
        try: part = os.read(mine, 4096)
        except OSError: break        # how Linux says that the other end is closed
        if not part: break
        shown += part
    os.close(mine)
    return shown.decode(), program.wait(60)


@NO_PTY
def test_sample_at_a_terminal_and_in_a_pipe():
    prompt = "Mia\x1b[2J \u202ehad"
    words = "sample", "tales-short", "--prompt", prompt, "--tokens", "3", "--seed", "0"
    shown, code = at_a_terminal(*words)
    assert code == 0 and r"Mia\x1b[2J \u202ehad" in shown
    assert not obeyed(shown.replace("\r\n", "\n"))
    piped = subprocess.run([*COMMAND, *words], capture_output=True, check=True).stdout.decode()
    assert piped.startswith(prompt)


@NO_PTY
def test_a_file_with_such_a_name_is_trained_on_at_a_terminal(tmp_path, monkeypatch):
    "Progress bars, the lines about the text, and the next command to type."
    monkeypatch.chdir(tmp_path)
    name = "\x1b[31mred\x07.txt"
    with open(name, "w") as file: file.writelines(f"{i} times 2 is {2 * i}\n\n" for i in range(900))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shown, code = at_a_terminal("train", "--data", name, "--steps", "2", "--depth", "1",
                                "--context", "32", "--tokenizer", "char")
    assert code == 0 and r"\x1b[31mred\x07" in shown and "100%" in shown, shown
    assert set(obeyed(shown)) == {"\r"}


# ---- the card of a model

MARKUP = ["<script>alert(1)</script>", "![x](http://example.com/a.png)", "[x](javascript:alert(1))",
          "# a heading", "---", "===", "- a list", "12. a list", "`code`", "| a | b |", "&lt;b&gt;",
          "*strong* _soft_ ~~gone~~", "<!-- -->", "    code", "see http://example.com and www.a.b",
          "\x1b[31m red \u202e", "> deeper", "$x$", "\\<b>", "[a]: http://example.com", "```"]


@pytest.fixture(scope="module")
def talks():
    "A run whose text has a hostile name."
    from types import SimpleNamespace

    from gpt_nb.model import GPT, GPTConfig
    from gpt_nb.tokenizer import CharTokenizer

    tok = CharTokenizer.train(["abc"])
    torch.manual_seed(0)
    model = GPT(GPTConfig("qwen3", tok.vocab_size, 16, 1, 2, 16)).eval()
    return SimpleNamespace(model=model, tok=tok, history=[], seconds=1.0, val_loss=None, floor=None,
                           options={"data": "---\nlicense: mit\n<script>"})


def read_card(card):
    "The front matter, and the tokens of the Markdown behind it."
    from markdown_it import MarkdownIt

    _, head, body = card.split("---\n", 2)
    page = MarkdownIt("gfm-like", dict(html=True, linkify=False)).parse(body)
    inline = [token for block in page for token in block.children or ()]
    return yaml.safe_load(head), page, inline


@pytest.mark.parametrize("line", MARKUP)
def test_what_a_model_writes_is_only_text_in_its_card(talks, line, monkeypatch):
    from gpt_nb import pretrained

    monkeypatch.setattr(pretrained, "sample_text", lambda *_: f"Once\n{line}\n{line}\nthe end")
    head, page, inline = read_card(pretrained.model_card(talks))
    assert head == dict(license="other", library_name="transformers",
                        pipeline_tag="text-generation")
    kinds = {token.type for token in [*page, *inline]}
    assert not {"html_block", "html_inline", "image", "link_open", "list_item_open", "fence", "hr",
                "code_block", "em_open", "strong_open", "s_open"} & kinds
    assert [token.type for token in page].count("heading_open") == 1
    assert [token.type for token in page].count("blockquote_open") == 1
    codes = [token.content for token in inline if token.type == "code_inline"]
    assert codes == ["--- license: mit <script>"] * 2     # the name of the data, and no other code
    said = "".join(token.content for token in inline if token.type == "text")
    bare = line.strip().replace("\x1b", "\ufffd").replace("\u202e", "\ufffd")
    assert said.count(bare) >= 2 and not obeyed(said)


@pytest.mark.parametrize("line", ['One day Mia, who was 7, said: "Oh!"', "今天天气很好。",
                                  "👩\u200d🚀"])
def test_a_plain_line_is_not_touched(line):
    from gpt_nb.pretrained import as_prose

    assert as_prose(line) == line


@pytest.mark.parametrize("licence", ["mit\nx: y", "mit # x", "'mit'", "", "a: b", "[a]"])
def test_a_licence_cannot_add_to_the_front_matter(talks, licence):
    from gpt_nb.pretrained import model_card

    with pytest.raises(ValueError, match="expected a name as the Hub"): model_card(talks, licence)


# ---- the page of `gpt-nb play`

TAKES_OVER = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


def tiny_run(folder):
    "A folder with a small model that knows a few characters."
    from gpt_nb.checkpoint import save_tokenizer
    from gpt_nb.model import GPT, GPTConfig
    from gpt_nb.tokenizer import CharTokenizer

    tok = CharTokenizer.train(["abcdefghijklmnopqrstuvwxyz" * 2 + "0123456789"])
    torch.manual_seed(0)
    GPT(GPTConfig("qwen3", tok.vocab_size, 16, 1, 2, 16)).save_pretrained(folder)
    save_tokenizer(tok, folder, None)


def play(name, monkeypatch, then):
    "`gpt-nb play`, whose finished folder is given to a function in place of a server."
    monkeypatch.setattr(cli, "show_page", lambda folder, port, start: then(folder))
    assert run_app(["play", name]) == 0


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "a\x1b[31m\u202eb", "..",
                                  "---\n"])
def test_a_page_names_a_model_by_letters_and_digits(name, tmp_path, monkeypatch):
    folder = tmp_path / "in" / name
    tiny_run(folder)
    listed = []
    play(str(folder), monkeypatch, lambda made: listed.extend(
        json.loads((Path(made) / "models.json").read_text("utf-8"))))
    assert [re.fullmatch(r"\w[\w-]*", entry["name"]) is not None for entry in listed] == [True]


@pytest.mark.skipif(CHROMIUM is None, reason=missing())
def test_what_a_model_writes_is_only_text_in_its_page(browser, tmp_path, monkeypatch):
    "Tokens that are tags: in the story, in the list of guesses, in the attention."
    from gpt_nb.page import serve

    tiny_run(tmp_path / "run")

    def read(made):
        file = Path(made) / "models" / "run" / "model.json"
        about = json.loads(file.read_text("utf-8"))
        tokens = about["tokenizer"]
        tokens["pieces"] = [piece and TAKES_OVER + piece for piece in tokens["pieces"]]
        tokens["special"] = [[TAKES_OVER + name, i] for name, i in tokens["special"]]
        file.write_text(json.dumps(about), encoding="utf-8")
        with running(serve(made)) as address:
            tab = browser.new_page()
            tab.goto(f"{address}/playground.html", wait_until="load")
            tab.wait_for_function("document.querySelector('#model').value")
            title = tab.title()
            tab.click("#write")
            tab.wait_for_function("document.querySelectorAll('#story .token').length > 3")
            tab.locator("#story .token").nth(2).click()
            tab.wait_for_function("!document.querySelector('#next').hidden")
            tab.wait_for_timeout(500)
            written = tab.evaluate("document.getElementById('story').textContent")
            assert "<img src=x" in written and "<img" in tab.inner_text("#next")
            assert tab.title() == title != "taken"
            assert tab.locator(".playground :is(img, script)").count() == 0
            tab.close()
    play(str(tmp_path / "run"), monkeypatch, read)
