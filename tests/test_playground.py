"""The playground as a reader meets it: served as `gpt-nb play` does, opened in a real browser that
is allowed nothing outside."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from browser import CHROMIUM, missing, running, watched

from gpt_nb.page import serve, write_page
from gpt_nb.sampling import generate
from gpt_nb.tales import Tales
from gpt_nb.training import Run

ROOT = Path(__file__).parent.parent
WORLDS = {"tales-en": Tales("en", 2), "tales-zh": Tales("zh", 2)}
NEW = {"tales-en": "Long ago a stubborn shepherdess named",
       "tales-zh": "很久以前修道院里住着一个固执的"}
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=missing())


@pytest.fixture(scope="module")
def runs():
    return {name: Run.open(name) for name in [*WORLDS, "pydocs"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, runs):
    "The page with three models, and one that knows few characters."
    from gpt_nb.model import GPT, GPTConfig
    from gpt_nb.tokenizer import CharTokenizer

    tok = CharTokenizer.train(["abc"])
    torch.manual_seed(0)
    few = GPT(GPTConfig("qwen3", tok.vocab_size, 16, 1, 2, 16)), tok, None
    models = {name: (run.model, run.tok, WORLDS.get(name)) for name, run in runs.items()}
    folder = write_page(tmp_path_factory.mktemp("page"), models | {"few": few})
    shutil.copy(ROOT / "gpt_nb" / "fonts" / "chinese.otf", folder)
    return folder


@pytest.fixture(scope="module")
def address(folder):
    with running(serve(folder)) as address: yield address


class Page:
    "The playground in a tab: what a reader does, and what there is to see."
    def __init__(self, tab): self.tab = tab

    def __getattr__(self, name): return getattr(self.tab, name)

    def wait(self):
        "Until nothing is being written or fetched."
        idle = "!document.querySelector('.playground').hasAttribute('aria-busy')"
        self.tab.wait_for_function(idle, timeout=60_000)
        self.tab.wait_for_timeout(100)

    def write(self, prompt="", **settings):
        "Type, set, press Write, and wait for the end."
        for name, value in settings.items():
            self.tab.fill(f"#{name.replace('_', '-')}", str(value))
        self.tab.fill("#prompt", prompt)
        self.tab.click("#write")
        self.wait()
        return self.story

    @property
    def story(self): return self.tab.evaluate("document.getElementById('story').textContent")

    @property
    def said(self): return self.tab.inner_text("#say")

    @property
    def ids(self):
        tokens = self.tab.eval_on_selector_all("#story .token", "all => all.map(t => t.dataset.id)")
        return [int(i) for token in tokens for i in token.split()]

    def rows(self):
        "The list: word -> (share of the model, share of the truth)."
        shown = self.tab.eval_on_selector_all("#next tbody tr:not([hidden])", """rows => rows
            .map(row => [row.querySelector('button span').textContent, row.row.model,
                         row.row.truth, row.row.rest])""")
        return {word: (model, truth) for word, model, truth, rest in shown if not rest}


@pytest.fixture
def visit(browser, address):
    "visit(model) opens the page; what goes wrong in it goes into visit.wrong and fails the test."
    def visit(model="tales-en", width=1280, init="", **options):
        tab = new_tab(width, init, **options)
        tab.goto(f"{address}/playground.html?model={model}", wait_until="load")
        if not init: tab.wait_for_function("document.querySelector('#model').value")
        return Page(tab)

    with watched(browser, address) as new_tab:
        visit.wrong = new_tab.wrong
        yield visit


@pytest.mark.parametrize("name", WORLDS)
def test_what_it_writes_is_what_python_writes(visit, runs, name):
    run, page = runs[name], visit(name)
    text = page.write(NEW[name], temperature=0)
    first = [run.tok.end_id, *run.tok.encode(NEW[name])]
    wanted = generate(run.model.float(), first, 60, temperature=0, stop=[run.tok.end_id])
    assert page.ids[:len(wanted)] == wanted and len(wanted) > len(first) + 50
    assert text.startswith(NEW[name]) and text == run.tok.decode(page.ids[1:-1])


def test_the_same_seed_writes_the_same_story(visit):
    page = visit()
    first = page.write(seed=7)
    again, other = page.write(seed=7), page.write(seed=8)
    assert first == again != other
    page.click("#another")
    page.wait()
    assert page.input_value("#seed") == "9" and page.story != other
    for _ in range(2):     # one token after the other is the same story too
        page.fill("#seed", "7")
        page.click("#step")
        page.wait()
        page.click("#step")
        page.wait()
        assert first.startswith(page.story) and len(page.ids) >= 3
    page.click("#on")
    page.wait()
    assert page.story == first


def test_weights_come_when_they_are_asked_for(visit):
    page, asked = visit(), []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    page.wait_for_timeout(500)
    loaded = page.evaluate("performance.getEntriesByType('resource').map(r => r.name)")
    assert not [name for name in loaded if "weights" in name or "world-" in name] and not asked
    page.write()
    assert "weights.bin" in asked and "world-en.json" in asked
    asked.clear()
    page.write()
    assert not asked       # once is enough


def list_after(page, beginning):
    "The list at the end of what was typed."
    page.fill("#prompt", beginning)
    page.click("#step")
    page.wait()
    page.locator("#story .token:not(.typed)").first.click()
    page.wait_for_function("!document.querySelector('#next').hidden")
    page.wait_for_timeout(1500)
    return page.rows()


@pytest.mark.parametrize("beginning", ["", "Long ago", "Once there was a",
                                       "Once there was a shy witch named Vera in the"])
def test_the_truth_stands_beside_the_guess(visit, runs, beginning):
    page, run = visit(), runs["tales-en"]
    shown, true = list_after(page, beginning), WORLDS["tales-en"].next(beginning)
    ids = torch.tensor([[run.tok.end_id, *run.tok.encode(beginning)]])
    with torch.no_grad(): probs = run.model.float().eval()(ids)[0, -1].softmax(-1)
    assert len(shown) == min(9, len(true)) and page.locator("#next tr.written").count() == 1
    for word, (model, truth) in shown.items():
        [i] = run.tok.encode(f" {word}" if beginning else word)
        assert truth == pytest.approx(true[word], abs=1e-9), word
        assert model == pytest.approx(float(probs[i]), abs=1e-4), word
    assert re.search(r"have \d+ % in common", page.inner_text("#agree"))


@pytest.mark.parametrize("beginning", ["从前", "很久以前"])
def test_in_chinese_words_are_several_tokens_and_tokens_several_words(visit, runs, beginning):
    "The truth is that of the stories whose tokens begin so."
    world, tok = WORLDS["tales-zh"], runs["tales-zh"].tok
    shown, counted = list_after(visit("tales-zh"), beginning), Counter()
    for seed in range(4000):
        story, given = world.sample(seed), tok.encode(beginning)
        if tok.encode(story.text)[:len(given)] == given: counted[story.words[1]] += 1
    assert len(shown) == 9 and "�" not in "".join(shown)
    for word, (model, truth) in shown.items():
        assert truth == pytest.approx(counted[word] / counted.total(), abs=0.015), word
        assert model == pytest.approx(truth, abs=0.03), word


def test_where_the_tokens_are_those_of_no_story(visit):
    "A character that breaks off within a token: the truth is that of the text, and a line says so."
    page = visit("tales-zh")
    shown = list_after(page, "从前磨坊里")
    assert page.inner_text("#agree").startswith("开头停在一个词元的中间")
    assert {word: truth for word, (_, truth) in shown.items() if truth} == WORLDS["tales-zh"].next(
        "从前磨坊里")


def test_another_word_can_be_chosen(visit, runs):
    page = visit()
    first = page.write("Once there was a", seed=2)
    token = page.locator("#story .token:not(.typed)").first
    token.click()
    page.wait_for_timeout(500)
    assert token.get_attribute("aria-pressed") == "true"
    assert page.inner_text("#next-head") == "What else it could have been"
    written = page.inner_text("#next tr.written button span")
    other = next(word for word in page.rows() if word != written)
    word = page.locator("span", has_text=re.compile(f"^{other}$"))
    page.locator("#next button", has=word).click()
    page.wait()
    assert page.story.startswith(f"Once there was a {other} ") and page.story != first
    branch = page.story
    assert page.ids[1:-1] == runs["tales-en"].tok.encode(branch)
    assert page.locator("#story [tabindex='0']").count() == 1


@pytest.mark.parametrize("name", WORLDS)
def test_a_word_that_no_piece_of_the_model_says_can_be_chosen(visit, runs, name):
    "The text with it is cut into tokens anew."
    page, tok = visit(name), runs[name].tok
    page.write(NEW[name], seed=4)
    page.locator("#story .token:not(.typed)").nth(1).click()
    page.wait_for_timeout(1500)
    page.evaluate("document.querySelector('#next tbody tr').row.ids = null; 0")
    word = page.inner_text("#next tbody tr:first-child button span")
    before = page.story
    page.click("#next tbody tr:first-child button")
    page.wait()
    ids = page.ids[1:]
    if ids[-1] == tok.end_id: ids.pop()   # where the context is full, none ends it
    assert ids[:len(tok.encode(NEW[name]))] == tok.encode(NEW[name])
    assert tok.decode(ids) == page.story and word in page.story
    assert os.path.commonprefix([page.story, before]).startswith(NEW[name])


def test_the_checker_marks_each_sentence(visit):
    wrong = ("Once there was a shy witch named Vera in the mill. Her friend, a kind king named "
             "Tom, lived in the cave. Vera had a red kite. Tom had a blue kite. She had it.")
    page = visit()
    page.fill("#prompt", wrong)
    page.click("#step")
    page.wait()
    told = [reason for reason in WORLDS["tales-en"].check(wrong).reasons
            if "not a whole story" not in reason and "breaks off" not in reason]
    shown = page.inner_text("#verdict")
    assert told and all(reason in shown for reason in told), (told, shown)
    joined = "all => all.map(fault => fault.textContent).join('')"
    marked = page.eval_on_selector_all("#story .fault", joined)
    assert marked.startswith("Tom had a blue kite.") and "Vera had a red kite" not in marked
    notes = page.eval_on_selector_all("#story [data-note]", "all => all.map(f => f.dataset.note)")
    assert notes == [str(i + 1) for i in range(len(notes))] and notes
    assert page.story.startswith(wrong)      # marks are no text


def test_attention_of_a_head_stands_under_the_text(visit, runs):
    page = visit()
    page.write("Once there was a shy witch named Vera in the mill.", seed=1)
    page.locator("#story .token").nth(9).click()
    shares = """() => [...document.querySelectorAll('#story .token')]
        .map(token => Number(getComputedStyle(token).getPropertyValue('--share')))"""
    first = page.evaluate(shares)
    assert max(first) == 1 and not any(first[9:]) and sum(share > 0 for share in first) > 3
    page.select_option("#layer", "3")
    page.select_option("#head", "5")
    page.wait_for_timeout(300)
    assert page.evaluate(shares) != first and "head 5 of layer 3" in page.inner_text("#looks")
    assert page.locator("#layer option").count() == runs["tales-en"].model.config.n_layer


def test_settings_change_what_is_drawn_from(visit):
    page = visit()
    page.write("Once there was a", seed=1)
    page.locator("#story .token:not(.typed)").first.click()
    page.fill("#top-k", "3")
    page.wait_for_timeout(700)
    rows = "#next tbody tr:not([hidden])"
    drawn = page.eval_on_selector_all(rows, "rows => rows.map(({ row }) => row.drawn)")
    assert sum(share > 0 for share in drawn) == 3 and sum(drawn) == pytest.approx(1)
    assert page.locator("#next th.drawn").is_visible()
    assert "As drawn:" in page.inner_text("#agree")
    page.fill("#top-k", "0")
    page.wait_for_timeout(700)
    assert not page.locator("#next th.drawn").is_visible()
    assert "As drawn:" not in page.inner_text("#agree")


def test_stop_stops_at_once(visit):
    page = visit()
    page.select_option("#pace", "slow")
    page.click("#write")
    page.wait_for_function("document.querySelectorAll('#story .token').length > 4")
    page.click("#stop")
    page.wait()
    n = len(page.ids)
    page.wait_for_timeout(700)
    assert len(page.ids) == n and "Stopped after" in page.said and page.is_disabled("#stop")
    page.select_option("#pace", "fast")
    page.click("#on")
    page.wait()
    assert len(page.ids) > n and page.said.startswith("Done")


def test_another_model_can_be_chosen_while_one_writes(visit):
    page = visit()
    page.select_option("#pace", "slow")
    page.click("#write")
    page.wait_for_function("document.querySelectorAll('#story .token').length > 2")
    page.select_option("#model", "tales-zh")
    page.wait()
    assert page.story == "" and "出错" not in page.said and page.inner_text("#write") == "写"
    page.select_option("#pace", "fast")
    assert page.write() and "写完了" in page.said


def test_stop_ends_the_fetching(visit):
    page = visit()
    page.route("**/weights.bin", lambda route: (time.sleep(1), route.abort()))
    page.click("#write")
    page.click("#stop")
    page.wait()
    assert page.said == "Stopped." and page.story == "" and page.is_hidden("#progress")
    visit.wrong[:] = [line for line in visit.wrong if "ERR_FAILED" not in line]


def longest_task(browser, page, act):
    "Of the page's main thread while `act` runs: milliseconds of the processor, and of the clock."
    browser.start_tracing(page=page.tab, categories=["devtools.timeline", "toplevel",
                                                     "disabled-by-default-devtools.timeline"])
    act()
    events = json.loads(browser.stop_tracing())["traceEvents"]
    named = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    tasks = [e for e in events if e["name"].endswith("RunTask") and "tdur" in e
             and named.get((e["pid"], e["tid"])) == "CrRendererMain"]
    assert len(tasks) > 200
    return [max(e[time] for e in tasks) / 1000 for time in ("tdur", "dur")]


@pytest.mark.parametrize("name", WORLDS)
def test_the_page_answers_while_it_writes(visit, browser, name):
    "No task over 100 ms. The processor's time counts, for other programs may have it meanwhile."
    page = visit(name)
    page.write()                 # fetched, and compiled
    times = longest_task(browser, page, lambda: page.write(seed=2))
    assert times[0] < 100, times


def test_an_empty_beginning_is_a_new_story(visit):
    page = visit()
    assert page.write("").startswith(("Once there was a", "Long ago a")) and "Done" in page.said


def test_a_beginning_that_is_too_long(visit):
    page = visit()
    assert page.write("Once there was a shy witch named Vera. " * 20) == ""
    assert re.search(r"has 180 tokens.*at most 1\d\d", page.said)


@pytest.mark.parametrize("name", ["tales-zh", "pydocs"])
def test_a_whole_book_is_refused_at_once(visit, name):
    page = visit(name)
    page.write()
    page.evaluate("document.getElementById('prompt').value = 'x'.repeat(300000)")
    before = time.monotonic()
    page.click("#write")
    page.wait()
    assert "300,000" in page.said and page.get_attribute("#say", "class") == "wrong"
    assert time.monotonic() - before < 5


def test_a_word_that_the_model_never_saw(visit):
    page = visit()
    text = page.write("Once there was a shy hobbit named Bilbo in the mill.", seed=1)
    assert "“hobbit”, “Bilbo”" in page.said and "never saw" in page.said
    assert text.startswith("Once there was a shy hobbit named Bilbo in the mill.")
    page.locator("#story .token:not(.typed)").first.click()
    page.wait_for_timeout(500)
    assert "no truth to compare with" in page.inner_text("#agree")
    assert not page.locator("#next th.true").is_visible()


def test_a_character_that_the_model_lacks(visit):
    page = visit("few")
    assert page.write("abxc") == "" and "lacks “x”" in page.said
    assert page.write("abc", temperature=0) != ""
    assert "reads at most 16 tokens" in page.said or "Done" in page.said


@pytest.mark.parametrize("name, line", [
    ("tales-en", "The world cannot tell"), ("tales-zh", "讲不出"), ("pydocs", "No world is known")])
def test_where_there_is_no_truth(visit, name, line):
    page = visit(name)
    page.fill("#prompt", "the dog , the")
    page.click("#step")
    page.wait()
    page.wait_for_timeout(300)
    assert line in page.inner_text("#agree") and page.rows()
    if name in WORLDS: assert line in page.said or "“dog”" in page.said
    assert not page.locator("#next th.true").is_visible()


@pytest.mark.parametrize("name, line", [("tales-en", "cut off"), ("tales-zh", "被截断")])
def test_weights_cut_in_half(visit, folder, name, line):
    half = (folder / "models" / name / "weights.bin").read_bytes()
    page = visit(name)
    page.route("**/weights.bin", lambda route: route.fulfill(body=half[:len(half) // 2]))
    assert page.write() == "" and line in page.said
    page.unroute("**/weights.bin")
    assert page.write() != ""


def test_a_file_that_is_missing_and_no_network(visit):
    page = visit()
    page.route("**/weights.bin", lambda route: route.fulfill(status=404))
    assert page.write() == "" and "cannot be fetched" in page.said
    page.unroute("**/weights.bin")
    page.context.set_offline(True)
    assert page.write() == "" and "no network" in page.said
    page.context.set_offline(False)
    assert page.write() != ""
    visit.wrong[:] = [line for line in visit.wrong if not re.search("404|ERR_INTERNET", line)]


def test_a_list_of_models_that_is_missing(visit):
    page = visit(init="window.fetch = async () => new Response('', { status: 404 })")
    page.wait_for_function("document.querySelector('#say').textContent")
    assert "cannot be fetched" in page.said


ODD = {"a word of 2,000 letters": "x" * 2_000, "lines of right to left": "שלום ‮Once a مرحبا",
       "control characters": "Once\x00\x07 a king", "nothing to see": "Once \u200b a",
       "emoji": "👩‍👩‍👧 Once 🇨🇳", "a token's name": "<|end|> Once",
       "tags": "<img src=x onerror=alert(1)>"}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_text_is_named_and_breaks_nothing(visit, text):
    page = visit(width=390)
    assert page.write(text, seed=1).startswith(text)
    assert "never saw “" in page.said and len(page.said) < 400 and "“”" not in page.said
    if "\u200b" in text: assert "“U+200B”" in page.said
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert len(page.inner_text("#verdict")) < 3000 and page.locator("#story img").count() == 0
    assert page.evaluate("document.querySelector('#say .wrong').textContent").endswith("do.")
    page.locator("#story .token").nth(1).click()
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_white_space_is_drawn_where_it_is_a_token(visit):
    page = visit("pydocs")
    page.write("Return a list of\n\n", temperature=0)
    for at in range(1, 6): page.locator("#story .token").nth(at).click()
    page.wait_for_timeout(500)
    shown = page.eval_on_selector_all("#next button:not(:disabled) span:first-child",
                                      "all => all.map(span => span.textContent)")
    assert "" not in shown and all(word.strip() for word in shown)
    page.evaluate("document.querySelectorAll('#story .token').forEach(token => token.click())")
    page.wait_for_timeout(500)
    assert "“”" not in page.inner_text("#looks")


def test_a_model_without_a_world_is_promised_no_truth(visit):
    for name, seen in (("few", False), ("tales-en", True)):
        page = visit(name)
        assert page.locator("[data-text=truth]").is_visible() is seen
        about = page.inner_text("#about")
        assert re.match(r"[1-9][\d,.]*( million)? learned", about) and "0.0 MB" not in about


def test_at_the_end_it_says_what_was_looked_at_to_end(visit):
    page = visit()
    page.write("Long ago a", seed=1)
    assert "Before it chose “end of the story”" in page.inner_text("#looks")
    assert page.get_attribute("#story .token.end", "title") == "end of the story"


@pytest.mark.parametrize("value, after", [("7", "8"), ("4294967295", "0"), ("", "1"),
                                          ("1.5", "0"), ("-3", "0")])
def test_another_story_has_a_seed_that_is_one(visit, value, after):
    page = visit()
    page.fill("#seed", value)
    page.click("#another")
    page.wait()
    assert page.input_value("#seed") == after and page.story


def test_an_example_of_the_other_language_is_taken_away(visit):
    page = visit()
    page.click("#examples button")
    assert page.input_value("#prompt")
    page.select_option("#model", "tales-zh")
    assert page.input_value("#prompt") == ""
    page.fill("#prompt", "从前，我自己写的")
    page.select_option("#model", "tales-en")
    assert page.input_value("#prompt") == "从前，我自己写的"      # what was typed stays


@pytest.mark.parametrize("body", ["<!doctype html>", "[]", "{}", "null", '[{"name": "x"}]'])
def test_a_list_of_models_that_is_damaged(visit, body):
    "Write fetches it again."
    page = visit(init="window.MANGLED = fetch; window.fetch = async (url, how) => "
                 f"/models.json/.test(url) ? new Response({body!r}) : MANGLED(url, how)")
    page.wait_for_function("document.querySelector('#say').textContent")
    assert "damaged" in page.said and page.locator("#model option").count() == 0
    page.evaluate("window.fetch = MANGLED; 0")
    page.click("#write")
    page.wait_for_function("document.querySelector('#say').textContent.startsWith('Done')")
    assert page.story


@pytest.mark.parametrize("old, new", [
    ('"tensors"', '"tensorz"'), ('"tokenizer"', '"tok"'), ('"split":"', '"split":"('),
    ('"shape":[306,128]', '"shape":[999999,128]')])
def test_a_description_that_cannot_be_understood(visit, folder, old, new):
    text = (folder / "models" / "tales-en" / "model.json").read_text("utf-8")
    assert old in text
    page = visit()
    page.route("**/model.json", lambda route: route.fulfill(body=text.replace(old, new)))
    assert page.write() == "" and "damaged or of another version" in page.said
    page.unroute("**/model.json")
    assert page.write() != ""



@pytest.mark.parametrize("name", ["AbortController", "ReadableStream", "MessageChannel"])
def test_a_browser_that_lacks_something(visit, name):
    page = visit(init=f"delete window.{name}")
    assert f"lacks {name}" in page.said and page.locator(".wrong:visible").count() == 1


@pytest.mark.parametrize("field, value, line", [
    ("temperature", "-1", "Temperature must be a number from 0 to 10"),
    ("top-p", "", "Top-p must be"), ("top-k", "2.5", "Top-k must be a whole number"),
])
def test_a_setting_that_is_none(visit, field, value, line):
    page = visit()
    page.fill(f"#{field}", value)
    page.click("#write")
    assert line in page.said and page.get_attribute(f"#{field}", "aria-invalid") == "true"
    assert page.story == ""


def focused(page):
    active = "document.activeElement"
    return page.evaluate(f"{active}.id || {active}.className")


def test_keys_are_enough(visit):
    page = visit()
    page.focus("#prompt")
    page.keyboard.type("Once there was a")
    page.keyboard.press("Enter")
    page.wait()
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(focused(page))
    tokens = [name for name in seen if "token" in name]
    assert 1 <= len(tokens) <= 3 and {"write", "layer", "head", "temperature", "seed"} <= set(seen)
    page.focus("#story [tabindex='0']")
    page.keyboard.press("Home")
    for _ in range(5): page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_timeout(500)
    pressed = page.locator("#story [aria-pressed='true']")
    assert page.locator("#story [tabindex='0']").count() == 1
    assert pressed.count() == 1 and page.inner_text("#next-head") == "What else it could have been"
    before = page.story
    page.focus("#next tbody tr:nth-child(2) button")
    page.keyboard.press("Enter")
    page.wait()
    assert page.story != before and page.story.startswith("Once there was a")
    page.focus("#story [tabindex='0']")
    page.keyboard.press("Escape")
    assert pressed.count() == 0


def test_a_screen_reader_hears_sentences_not_tokens(visit):
    page = visit()
    page.evaluate("""() => { window.heard = [];
        new MutationObserver(() => heard.push(document.querySelector('#spoken').textContent))
            .observe(document.querySelector('#spoken'), { childList: true }); }""")
    text = page.write("", seed=1)
    heard = [line for line in page.evaluate("heard") if line]
    assert page.get_attribute("#spoken", "aria-live") == "polite"
    assert page.locator("#story[aria-live], #story [aria-live]").count() == 0
    assert 1 <= len(heard) <= text.count(".")
    assert "".join(heard).count(".") >= text.count(".")


def test_the_interface_speaks_the_language_of_the_model(visit):
    page = visit()
    language = "document.documentElement.lang"
    assert page.inner_text("#write") == "Write" and page.evaluate(language) == "en"
    page.select_option("#model", "tales-zh")
    assert page.inner_text("#write") == "写" and page.inner_text("h1") == "在网页里写作的 GPT"
    assert page.evaluate(language) == "zh-CN"
    text = page.write(seed=1)
    assert re.match("从前|很久以前", text) and "写完了" in page.said
    left = page.evaluate("""[...document.querySelectorAll('[data-text]')].map(e => e.textContent)
        .filter(text => /[a-z]{3}/.test(text) && !/Top|Min/.test(text))""")
    assert left == []


@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("width", [390, 1280])
def test_a_written_page_is_accessible_and_fits(visit, axe, name, width):
    page = visit(name, width=width, reduced_motion="reduce")
    page.write("", seed=1)
    page.locator("#story .token").nth(6).click()
    page.wait_for_timeout(700)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    moves = "getComputedStyle(document.querySelector('#next b')).transitionDuration"
    assert page.evaluate(moves) == "0s"
    page.evaluate(axe)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.wait_for_timeout(200)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        grave = [v for v in found if v["impact"] in ("serious", "critical")]
        assert not grave, [v["id"] + v["nodes"][0]["html"] for v in grave]


def test_gpt_nb_play_serves_it(browser, tmp_path):
    call = "from gpt_nb.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", call, "play", "tales-en"], cwd=tmp_path,
                               env=os.environ | dict(PYTHONPATH=str(ROOT)), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said = process.stdout.readline()
    tab = browser.new_page()
    tab.goto(re.search(r"http://\S+", said)[0])
    tab.click("#write")
    tab.wait_for_function("document.querySelector('#say').textContent.startsWith('Done')")
    assert Page(tab).story.endswith(".")
    tab.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0 and not process.stderr.read()


def test_gpt_nb_play_says_what_it_cannot(capsys, tmp_path):
    from gpt_nb.cli import run_app

    for words in (["play", str(tmp_path / "none")], ["play", "tales-en", "--port", "0"]):
        assert run_app(words) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("gpt-nb: ") and "\n" not in error


def test_every_line_is_in_both_languages():
    source = (ROOT / "gpt_nb" / "web" / "playground-text.js").read_text("utf-8")
    english, chinese = source.split("\n  zh: {")
    names = [set(re.findall(r"(?:^|[,{] )\s*(\w+): \"", part, re.M)) for part in (english, chinese)]
    assert names[0] == names[1] and len(names[0]) > 60, names[0] ^ names[1]
    web = ROOT / "gpt_nb" / "web"
    page = (web / "playground.html").read_text("utf-8")
    script = "".join((web / f"{name}.js").read_text("utf-8") for name in ("playground", "shelf"))
    used = set(re.findall(r'data-text="(\w+)"', page)) | set(re.findall(r"\w+", script))
    assert set(re.findall(r'data-text="(\w+)"', page)) <= names[0]
    unused = {name for name in names[0] - used if not name.endswith("Help")}
    assert not unused
