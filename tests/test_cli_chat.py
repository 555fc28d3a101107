"`gpt-nb chat` as a person types it, and as a program calls it."
import builtins
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gpt_nb import talk
from gpt_nb.chat import for_chat
from gpt_nb.checkpoint import load_tokenizer, save_tokenizer
from gpt_nb.cli import run_app
from gpt_nb.model import GPT

COMMAND = [sys.executable, "-c", "from gpt_nb.cli import main; main()"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch): monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    "A folder with a model that has a template and has not learned to answer."
    folder = tmp_path_factory.mktemp("talker") / "run"
    body = GPT.from_pretrained("tales-short", dtype=torch.float32)
    model, tok = for_chat(body, load_tokenizer("tales-short"))
    model.save_pretrained(folder)
    save_tokenizer(tok, folder, None)
    return str(folder)


class Piped(io.StringIO):
    "A stdin that is no terminal, of bytes."
    def __init__(self, data: bytes):
        super().__init__()
        self.buffer = io.BytesIO(data)


@pytest.fixture
def chat(talker, monkeypatch, capsys):
    "Pipe lines into a talk: its exit code, the lines on stdout, and stderr."
    def run(data, *options):
        data = data if isinstance(data, bytes) else data.encode()
        monkeypatch.setattr(sys, "stdin", Piped(data))
        code = run_app(["chat", talker, "--tokens", "8", *map(str, options)])
        said = capsys.readouterr()
        return code, said.out, said.err
    return run


def one_line(err):
    lines = err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("gpt-nb: ") and "Traceback" not in err
    return lines[0]


def test_a_line_in_is_a_line_out(chat):
    code, out, err = chat("Who had the kite?\r\nAnd Tom?\n谁？", "--system", "Mia had the kite.")
    assert code == 0 and len(out.splitlines()) == 3 and err.count("cut") <= 3
    assert chat("Who had the kite?\nAnd Tom?\n谁？\n", "--system", "Mia had the kite.")[1] == out


def test_answers_that_are_drawn_are_fixed_by_the_seed(chat):
    how = "--temperature", "1", "--seed"
    one, again, other = (chat("Who?\nWhere?\n", *how, seed)[1] for seed in (1, 1, 2))
    assert one == again != other


def test_no_line_is_no_answer(chat):
    assert chat("") == (0, "", "")


def test_an_empty_line_has_an_empty_answer(chat):
    code, out, err = chat("Who?\n\n \t\nWhere?\n")
    lines = out.split("\n")
    assert code == 0 and len(lines) == 5 and lines[1] == lines[2] == "" and lines[0] and lines[3]
    assert "line 2 is empty" in err and "line 3 is empty" in err


def test_what_is_no_text_is_refused_with_its_line(chat):
    code, out, err = chat(b"Who?\n\xff\xfe\n")
    assert code == 2 and out.count("\n") == 1 and "line 2 of stdin is not UTF-8" in err
    assert chat("\ufeffWho?\n")[1] == chat("Who?\n")[1]


def test_a_line_longer_than_the_context_is_refused(chat):
    code, out, err = chat("Who?\n" + "kite " * 400 + "\n")
    assert code == 2 and out.count("\n") == 1 and "line 2 of stdin" in err and "shorten it" in err


def test_control_characters_are_not_read_and_go_into_a_pipe_as_they_are(chat, monkeypatch):
    "What a terminal is given: test_terminal.py."
    seen = []

    def write(reader, tok, ids, *more):
        seen.append(tok.decode(ids))
        yield "\x1b[2JMia\x07\nhad it."
        return True
    monkeypatch.setattr(talk, "write", write)
    code, out, err = chat("Who\x1b[31m had\x00 it?\n")
    assert (code, out) == (0, "\x1b[2JMia\x07\\nhad it.\n")
    assert "Who[31m had it?" in seen[0]


def test_what_falls_out_is_said(chat):
    code, out, err = chat("Who had the kite?\n" * 8, "--system", "Mia had the kite.")
    assert code == 0 and out.count("\n") == 8 and "do not fit" in err or "forgotten" in err


def test_a_talk_may_refuse_to_forget(chat):
    code, out, err = chat("Who had the kite?\n" * 9, "--full", "refuse")
    assert code == 2 and "begin a new one" in err
    assert "'forget'" in one_line(chat("Who?\n", "--full", "forget")[2])


def test_a_model_that_was_not_made_to_talk_says_what_to_do(capsys):
    assert run_app(["chat", "tales-short"]) == 2
    said = one_line(capsys.readouterr().err)
    assert "not trained to chat" in said and "gpt-nb finetune tales-short --task chat" in said


def write(name, text, encoding="utf-8"):
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text, encoding=encoding)


def test_documents_are_looked_up_and_named(chat):
    write("docs/a.txt", "Tom lost the map in the mill.\n\nMia had the kite.\n")
    write("docs/b.txt", "Leo found the ring.\n")
    for docs in ("docs", "docs/*.txt"):
        code, out, err = chat("Who had the kite?\nWho found the ring?\n", "--docs", docs)
        read = [line for line in err.splitlines() if "read:" in line]
        assert code == 0 and "a.txt" in read[0] and out.count("\n") == 2
        assert any("b.txt" in line for line in read)
    code, out, err = chat("Wombats?\n", "--docs", "docs/a.txt", "--docs", "docs/b.txt")
    assert code == 0 and "read: nothing" in err


def test_documents_in_another_encoding(chat):
    write("zh.txt", "从前有一个国王。米娅有一只风筝。" * 5, "gb18030")
    said = one_line(chat("谁有风筝？\n", "--docs", "zh.txt")[2])
    assert "zh.txt" in said and "--encoding" in said
    code, out, err = chat("谁有风筝？\n", "--docs", "zh.txt", "--encoding", "gb18030")
    assert code == 0 and "read: zh.txt" in err
    assert "--docs" in one_line(chat("?\n", "--encoding", "gb18030")[2])


@pytest.mark.parametrize("docs", ["nothing/*.txt", "no.txt", "empty", "empty.txt"])
def test_no_document_at_all(chat, docs):
    Path("empty").mkdir()
    write("empty.txt", " \n")
    code, out, err = chat("Who?\n", "--docs", docs)
    assert code == 2 and out == "" and docs.rstrip("*.tx") in one_line(err)


@pytest.fixture
def typed(talker, monkeypatch, capsys):
    "Type lines, or press keys that raise, at a terminal: what is written."
    def run(*keys, answers=("Mia had the kite.",)):
        keys, answers = list(keys), list(answers)

        def read(prompt=""):
            key = keys.pop(0) if keys else EOFError
            if isinstance(key, str): return key
            raise key

        def answer(*given):
            for piece in answers.pop(0).split(" "):
                if piece == "^C": raise KeyboardInterrupt
                yield piece + " "
            return True
        stdin = Piped(b"")
        stdin.isatty = lambda: True
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(builtins, "input", read)
        monkeypatch.setattr(talk, "write", answer)
        code = run_app(["chat", talker, "--system", "Mia had the kite."])
        said = capsys.readouterr()
        return code, said.out, said.err
    return run


def test_a_talk_at_a_terminal(typed):
    code, out, err = typed("Who?", "", "/help", "And Tom?", "/save talk.jsonl", "/quit", "never",
                           answers=["Mia had it.", "No."])
    assert code == 0 and out == "Mia had it. \nNo. \n" and "/reset" in err
    row, = map(json.loads, Path("talk.jsonl").read_text("utf-8").splitlines())
    assert [message["content"] for message in row["messages"]][1:4] == ["Who?", "Mia had it. ",
                                                                       "And Tom?"]


def test_ctrl_c_stops_the_answer_and_not_the_talk(typed):
    code, out, err = typed("Who?", KeyboardInterrupt, "And Tom?", "/save talk.jsonl",
                           answers=["Mia had ^C it.", "No."])
    assert code == 0 and out == "Mia had \nNo. \n" and "stopped" in err and "/quit" in err
    row = json.loads(Path("talk.jsonl").read_text("utf-8"))
    assert [message["content"] for message in row["messages"]][2] == "Mia had "


def test_ctrl_c_before_the_first_word_leaves_nothing(typed):
    code, out, err = typed("Who?", "/save talk.jsonl", answers=["^C"])
    assert code == 0 and out == "" and "nothing was said yet" in err


def test_commands_that_cannot_be(typed):
    code, out, err = typed("/reset", "/what", "/save", "/save no/such.jsonl", "/docs", "Who?",
                           "/save .", "/etc/hosts is what?", answers=["Mia.", "A file."])
    assert code == 0 and out == "Mia. \nA file. \n" and "no text to answer from" not in err
    for said in ("there is no /what", "/save needs", "nothing was said yet", "is there already",
                 "nothing was looked up"):
        assert said in err
    assert "Traceback" not in err


def test_a_message_that_cannot_be_read_does_not_end_the_talk(typed):
    bad = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    code, out, err = typed("Who \udcff?", bad, "Who?", answers=["Mia."])
    assert code == 0 and out.endswith("Mia. \n") and err.count("gpt-nb: ") == 2


SLOW = """
import sys, time
from gpt_nb import talk
from gpt_nb.cli import main
def write(*given):
    for word in "one two three four five six seven eight nine ten".split():
        yield word + " "
        time.sleep(1)
    return True
talk.write = write
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pty on Windows")
def test_keys_at_a_real_terminal(talker):
    import pty
    import select

    mine, theirs = pty.openpty()
    program = subprocess.Popen([sys.executable, "-c", SLOW, "chat", talker], stdin=theirs,
                               stdout=theirs, stderr=theirs, start_new_session=True, close_fds=True,
                               preexec_fn=lambda: __import__("fcntl").ioctl(0, 0x540E, 0))
    os.close(theirs)
    shown = b""

    def until(word, send):
        nonlocal shown
        start, end = len(shown), time.monotonic() + 90
        while word not in shown[start:]:
            assert time.monotonic() < end, shown.decode()
            if select.select([mine], [], [], 0.2)[0]: shown += os.read(mine, 4096)
        time.sleep(0.5)   # nobody answers a prompt sooner
        os.write(mine, send)

    until(b"> ", b"first\n")
    until(b"two ", b"\x03")            # Ctrl-C while it writes
    until(b"> ", b"\x1b[A\n")          # the arrow brings the line back
    until(b"two ", b"\x03")
    until(b"> ", b"\x03")              # and where nothing is written
    until(b"> ", b"\x04")
    assert program.wait(30) == 0
    os.close(mine)
    text = shown.decode()
    assert text.count("stopped") == 2 and "nine" not in text and "/quit" in text
    assert "no text to answer from" in text
