"""What goes on inside, in a page: streams, lens and patching are Python's, and a reader turns them
in a real browser that is allowed nothing outside."""
import re
import shutil
from pathlib import Path

import pytest
import torch
from browser import CHROMIUM, missing, running, scripted, watched

from gpt_nb.model import GPT, GPTConfig, activations
from gpt_nb.page import serve, write_page, write_page_model
from gpt_nb.tales import Tales
from gpt_nb.tokenizer import CharTokenizer
from gpt_nb.training import Run

ROOT = Path(__file__).parent.parent
WEB = ROOT / "gpt_nb" / "web"
WORLDS = {"tales-en": Tales("en", 2), "tales-zh": Tales("zh", 2)}
SHAPES = dict(vocab_size=37, context=40, n_layer=3, n_head=4, d_model=24, d_ff=36)
CONFIGS = {"gpt2": GPTConfig("gpt2", **SHAPES),
           "llama": GPTConfig("llama", **SHAPES, n_kv_head=2, tie_embeddings=False),
           "qwen3": GPTConfig("qwen3", **SHAPES, n_kv_head=1, d_head=14, attention_bias=True)}
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason=missing())


def random_model(config):
    "Weights of the size that matters: biases and norms, too."
    torch.manual_seed(0)
    model = GPT(config)
    with torch.no_grad():
        for weight in model.parameters(): weight.normal_(1 if weight.dim() == 1 else 0, 0.3)
    return model.eval()


@pytest.fixture(scope="module")
def runs():
    return {name: Run.open(name) for name in WORLDS}


@pytest.fixture(scope="module")
def models(runs):
    "Random ones of three families, and those of the house as the page has them."
    found = {name: random_model(config) for name, config in CONFIGS.items()}
    return found | {name: run.model.float().eval() for name, run in runs.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, runs, models):
    "The page with the house models; the random ones beside it."
    listed = {name: (models[name], run.tok, WORLDS[name]) for name, run in runs.items()}
    tok = CharTokenizer([chr(97 + i) for i in range(20)])
    few = GPT(GPTConfig("qwen3", 5, 16, 1, 2, 16)), CharTokenizer.train(["abc"]), None
    folder = write_page(tmp_path_factory.mktemp("page"), listed | {"few": few})
    for name in CONFIGS:
        write_page_model(models[name], tok, folder / "models" / name, "float32")
    shutil.copy(ROOT / "gpt_nb" / "fonts" / "chinese.otf", folder)
    (folder / "empty.html").write_text("<!doctype html><title>empty</title>", "utf-8")
    return folder


@pytest.fixture(scope="module")
def address(folder):
    with running(serve(folder)) as address: yield address


@pytest.fixture(scope="module")
def script(browser, address):
    "script(text, **given): what JavaScript returns that may use the engine."
    with scripted(browser, address, """
        const I = await import("/inside.js");
        const told = (work) => { try { return [work()]; }
                                 catch (error) { return [error.code, error.message]; } };
    """) as script: yield script


def gap(ours, theirs):
    "The largest difference, beside the largest number."
    ours, theirs = torch.as_tensor(ours, dtype=torch.float32), torch.as_tensor(theirs)
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def some_ids(name, runs, n=24):
    "A beginning that the model was not trained on."
    if name in CONFIGS: return torch.randint(37, (n,), generator=torch.Generator().manual_seed(1))
    story = WORLDS[name].sample(10**8).text
    return torch.tensor([runs[name].tok.end_id, *runs[name].tok.encode(story)][:n])


def lens_of(model, x): return model.lm_head(model.model.norm(x))


READ = """const model = await open(given.name), inside = new I.Inside(model), logits = [];
    for (const id of given.ids) logits.push(inside.feed(id));
    const { n_layer, n_head } = model.config, layers = [...Array(n_layer).keys()];
    const heads = layers.map((l) => [...Array(n_head).keys()].map((h) => inside.attention(l, h)));
    const lens = inside.streams.map((row, l) => row.map((_, t) => inside.lens(l, t)));
    return { logits, heads, lens, streams: inside.streams };"""


@needs_browser
@pytest.mark.parametrize("name", [*CONFIGS, *WORLDS])
def test_streams_patterns_and_lens_are_pythons(script, runs, models, name):
    ids, model = some_ids(name, runs), models[name]
    found, theirs = script(READ, name=name, ids=ids.tolist()), activations(model, ids[None])
    shown = zip(found["streams"], found["lens"], theirs.hidden_states[:-1])   # the last is normed
    for stream, lens, state in shown:
        assert gap(stream, state[0]) < 1e-5
        with torch.no_grad(): assert gap(lens, lens_of(model, state[0])) < 1e-5
    with torch.no_grad(): assert gap(found["lens"][-1], model(ids[None])[0]) < 1e-5
    assert found["lens"][-1] == found["logits"]
    for ours, pattern in zip(found["heads"], theirs.attentions):
        for head, rows in enumerate(ours):
            for t, row in enumerate(rows):
                assert len(row) == t + 1
                assert gap(row, pattern[0, head, t, :t + 1]) < 1e-4


def patched(model, ids, layer, token, x):
    "The last logits where the stream after `layer` layers is `x` at a token."
    def put(module, given, result):
        result = result if isinstance(result, torch.Tensor) else result[0]
        result[0, token] = x

    part = model.model.layers[layer - 1] if layer else model.model.embed_tokens
    handle = part.register_forward_hook(put)
    try:
        with torch.no_grad(): return model(ids[None])[0, -1].clone()
    finally: handle.remove()


PATCH = """const model = await open(given.name);
    const a = new I.Inside(model), b = new I.Inside(model);
    for (const [t, id] of given.a.entries()) { a.feed(id); b.feed(given.b[t]); }
    const put = given.places.map(([l, t]) => b.patched(l, t, a.streams[l][t]));
    return { put, same: b.lens(model.config.n_layer, given.b.length - 1) };"""


@needs_browser
@pytest.mark.parametrize("name", ["llama", "qwen3", "tales-en", "tales-zh"])
def test_patching_is_pythons(script, runs, models, name):
    a, model, T = some_ids(name, runs), models[name], 24
    b, n = a.clone(), models[name].config.n_layer
    b[5] = a[7]
    states = activations(model, a[None]).hidden_states
    places = [(layer, t) for layer in range(n) for t in (0, 5, 6, 15, T - 1)]
    found = script(PATCH, name=name, a=a.tolist(), b=b.tolist(), places=places)
    for (layer, t), ours in zip(places, found["put"]):
        want = patched(model, b, layer, t, states[layer][0, t])
        assert gap(ours, want) < 1e-4, (layer, t)
    with torch.no_grad(): assert gap(found["same"], model(b[None])[0, -1]) < 1e-5
    assert found["put"][places.index((0, 0))] == found["same"]      # there both are the same


@needs_browser
def test_it_costs_nothing_and_changes_nothing(script):
    text = """const model = await open("qwen3"), plain = new E.Session(model);
    const inside = new I.Inside(model), other = new I.Inside(model), rows = [];
    for (const id of [3, 1, 4, 1, 5]) other.feed(id + 1);
    for (const id of [3, 1, 4, 1, 5]) {
        rows.push([plain.feed(id), inside.feed(id)]);
        if (inside.length > 2) inside.patched(1, 2, other.streams[1][2]);
    }
    inside.back(2);
    const sizes = [inside.length, ...inside.streams.map((row) => row.length)];
    rows.push([null, inside.feed(1)], [null, inside.feed(5)]);
    return { rows, sizes, keys: Object.keys(plain) };"""
    found = script(text)
    assert all(ours == theirs for ours, theirs in found["rows"][:5])
    assert [row for _, row in found["rows"][5:]] == [row for _, row in found["rows"][3:5]]
    assert found["sizes"] == [3] * 5 and "streams" not in found["keys"]
    assert "inside.js" not in (WEB / "engine.js").read_text("utf-8")


MISUSES = {
    "layer": ("inside.lens(4, 0)", "layer 4: there are 0 to 3"),
    "below": ("inside.lens(-1, 0)", "layer -1"),
    "token": ("inside.lens(0, 3)", "token 3: 3 tokens were read"),
    "stream": ("inside.patched(1, 1, new Float32Array(5))", "x has 5 numbers: a stream has 24"),
    "nothing": ("inside.patched(1, 1)", "x has undefined numbers"),
    "lengths": ("new I.Pair(model, [1, 2], [1, 2, 3])", "the texts have 2 and 3 tokens"),
    "same": ("new I.Pair(model, [1, 2], [1, 2])", "the two texts are the same"),
}


@needs_browser
@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_is_one_clear_line(script, misuse):
    text, said = MISUSES[misuse]
    code, line = script(f"""const model = await open("qwen3"), inside = new I.Inside(model);
    for (const id of [3, 1, 4]) inside.feed(id);
    const found = told(() => {text});
    inside.feed(1);      // goes on as if nothing had been asked
    return found;""")
    assert code and line.startswith(said)


# ------------------------------------------------------------------------------ the page, as read

IDLE = "!document.querySelector('.playground').hasAttribute('aria-busy')"


class Page:
    "The page in a tab."
    def __init__(self, tab): self.tab = tab

    def __getattr__(self, name): return getattr(self.tab, name)

    def press(self, button, line="#say"):
        "Press, and wait for the end; what the page then says."
        self.tab.click(button)
        self.tab.wait_for_function(IDLE, timeout=90_000)
        return self.tab.inner_text(line)

    def read(self, text=None):
        if text is not None: self.tab.fill("#story-text", text)
        return self.press("#look")

    def compare(self, a=None, b=None):
        for field, text in (("#text-a", a), ("#text-b", b)):
            if text is not None: self.tab.fill(field, text)
        return self.press("#put", "#patch-say")

    def cells(self, table):
        "The text of each cell, row by row."
        return self.tab.eval_on_selector_all(f"{table} tbody tr", """rows => rows.map(row =>
            [...row.querySelectorAll('td')].map(cell => cell.firstChild?.textContent))""")


@pytest.fixture
def visit(browser, address):
    "visit(model) opens the page; what goes wrong in it goes into visit.wrong and fails the test."
    def visit(query="?model=tales-en", width=1280, file="inside", **options):
        tab = new_tab(width, **options)
        tab.goto(f"{address}/{file}.html{query}", wait_until="load")
        tab.wait_for_function("document.querySelector('#model').value")
        return Page(tab)

    with watched(browser, address) as new_tab:
        visit.wrong = new_tab.wrong
        yield visit


def encoded(run, text): return torch.tensor([run.tok.end_id, *run.tok.encode(text)])


@needs_browser
@pytest.mark.parametrize("name", WORLDS)
def test_maps_and_lens_say_what_python_says(visit, runs, models, name):
    page = visit(f"?model={name}")
    page.read()
    text, run = page.input_value("#story-text"), runs[name]
    ids = encoded(run, text)
    theirs, shown = activations(models[name], ids[None]), page.cells("#lens")
    assert len(shown) == len(ids) and page.locator("#story .token").count() == len(ids)
    joined = page.evaluate("document.querySelector('#story').textContent").replace("·", "")
    assert joined == text
    for layer in range(4):
        with torch.no_grad(): best = lens_of(models[name], theirs.hidden_states[layer][0])
        for t, i in enumerate(best.argmax(-1).tolist()):
            said = "∎" if i == run.tok.end_id else run.tok.decode([i]).strip()
            said = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda c: f"U+{ord(c[0]):04X}", said)
            right = ids[t + 1:t + 2].tolist() == [i]
            if "\ufffd" not in said: assert shown[t][layer].startswith(said or "␣"), (t, layer)
            assert shown[t][layer].endswith("✓") is right
    page.select_option("#layer", "1")
    page.select_option("#head", "3")
    page.locator("#story .token").nth(20).click()
    row = theirs.attentions[1][0, 3, 20]
    found = [int(p) for p in re.findall(r"\((\d+) ?%\)", page.inner_text("#looks"))]
    best = (100 * row.sort(descending=True).values[:len(found)]).round().tolist()
    assert found and found == pytest.approx(best, abs=1)
    habit = page.inner_text("#habit")
    mean = theirs.attentions[1][0, 3].diagonal(-1)[1:].mean().item()
    assert re.search(rf"\b{round(100 * mean)} ?%", habit)


@needs_browser
def test_what_comes_back_is_what_python_computes(visit, runs, models):
    page, run, model = visit(), runs["tales-en"], models["tales-en"]
    assert page.compare().startswith("The first goes on with “Walter”, the second with “Vera”")
    a, b = [encoded(run, page.input_value(field)) for field in ("#text-a", "#text-b")]
    start, shown = int((a != b).nonzero()[0, 0]), page.cells("#patch")
    assert len(shown) == len(a) - start
    [yes], [no] = run.tok.encode(" Walter"), run.tok.encode(" Vera")
    lead = lambda logits: (logits[yes] - logits[no]).item()
    with torch.no_grad(): first, second = (lead(model(ids[None])[0, -1]) for ids in (a, b))
    states = activations(model, a[None]).hidden_states
    for t, row in enumerate(shown, start):
        for layer in range(4):
            now = lead(patched(model, b, layer, t, states[layer][0, t]))
            want = 100 * (now - second) / (first - second)
            assert int(row[layer]) == pytest.approx(want, abs=0.6), (t, layer)
    carriers = page.locator("#carriers li").all_inner_texts()
    assert "“kite | lamp”: 100 %" in carriers[0] and "“only”: 100 %" in carriers[-1]
    assert re.search("“kite”: 9. %", carriers[2])      # by way of the kite that she gives
    page.locator("#patch tbody tr").last.locator("td").last.click()
    assert "100 % come back" in page.inner_text("#patch-detail")
    assert "“Walter” 100 %" in page.inner_text("#patch-detail .small")


@needs_browser
@pytest.mark.parametrize("name, n", [("tales-en", 4), ("tales-zh", 2)])
def test_each_example_has_something_to_carry(visit, name, n):
    page = visit(f"?model={name}")
    buttons = page.locator("#pairs button")
    assert buttons.count() == n
    for i in range(n):
        buttons.nth(i).click()
        page.wait_for_function("document.querySelector('#patch tbody td[aria-selected]')")
        page.evaluate("document.querySelector('#stop').click()")
        page.wait_for_function(IDLE)
        shares = [int(text) for row in page.cells("#patch") for text in row if text]
        assert max(shares) >= 80


def focused(page):
    return page.evaluate("document.activeElement.id || document.activeElement.tagName")


@needs_browser
def test_keys_are_enough(visit):
    page = visit()
    page.focus("#story-text")
    page.keyboard.press("Enter")
    page.wait_for_function(IDLE)
    page.wait_for_function("document.querySelector('#lens td')")
    page.focus("#text-a")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#patch td[aria-selected]')")
    page.wait_for_function(IDLE)
    page.focus("#story-text")
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(focused(page))
    assert {"layer", "head", "map"} <= set(seen) and seen.count("TD") <= 4
    looks = lambda: page.inner_text("#looks")
    before = looks()
    page.focus("#story [tabindex='0']")
    page.keyboard.press("ArrowLeft")
    assert looks() != before and page.locator("#story [tabindex='0']").count() == 1
    page.focus("#map")
    for key in ("Home", "ArrowRight", "ArrowRight", "ArrowUp"):
        before = looks()
        page.keyboard.press(key)
        assert looks() != before and "it takes" in looks(), key
    for table, detail in (("#lens", "#lens-detail"), ("#patch", "#patch-detail")):
        page.focus(f"{table} td[tabindex='0']")
        told = set()
        for key in ("Home", "ArrowRight", "PageDown", "ArrowUp", "End"):
            page.keyboard.press(key)
            told.add(page.inner_text(detail))
        assert len(told) >= 4 and page.locator(f"{table} td[tabindex='0']").count() == 1
        assert page.locator(f"{table} [aria-selected='true']").count() == 1
    page.locator("#all button").nth(9).press("Enter")
    assert page.input_value("#layer") == "1" and page.input_value("#head") == "1"


@needs_browser
@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("width", [380, 1280])
def test_it_is_accessible_and_fits(visit, axe, name, width):
    page = visit(f"?model={name}", width=width)
    page.read()
    page.compare()
    page.locator("#patch td").nth(1).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert len(page.get_attribute("#map canvas", "aria-label")) > 30
    assert all(page.eval_on_selector_all("#all button", "all => all.map(b => b.ariaLabel)"))
    page.evaluate(axe)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(200)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        grave = [v for v in found if v["impact"] in ("serious", "critical")]
        assert not grave, [v["id"] + v["nodes"][0]["html"][:200] for v in grave]


@needs_browser
def test_a_story_of_the_playground_is_taken_along(visit):
    page = visit("?model=tales-zh", file="playground")
    page.fill("#prompt", "从前磨坊里住着一个")
    page.click("#write")
    page.wait_for_function(IDLE, timeout=60_000)
    text = page.evaluate("document.getElementById('story').textContent")
    page.click("#inside")
    page.wait_for_url("**/inside.html**")
    page.wait_for_selector("#lens td")
    page.wait_for_function(IDLE, timeout=90_000)
    assert page.input_value("#story-text") == text and page.input_value("#model") == "tales-zh"
    assert page.evaluate("document.documentElement.lang") == "zh-CN"


@needs_browser
def test_another_story_is_one_of_the_world(visit):
    page = visit()
    page.press("#another")
    page.wait_for_function("document.querySelector('#say').textContent.startsWith('Read')")
    assert WORLDS["tales-en"].check(page.input_value("#story-text")).story == 1


@needs_browser
@pytest.mark.parametrize("text, line", [
    ("", "There is no text"), ("Once there was a shy witch named Vera. " * 20, "at most 111"),
    ("x" * 100_000, "at most 111"), ("Once a hobbit", "<|unk|>")])
def test_a_text_that_cannot_be_read(visit, text, line):
    page = visit()
    page.evaluate("text => { document.querySelector('#story-text').value = text; }", text)
    assert line in page.press("#look")


@needs_browser
def test_a_character_that_the_model_lacks_and_a_model_without_a_world(visit):
    page = visit("?model=few")
    assert not page.is_visible("#another") and page.locator("#pairs button").count() == 0
    assert "lacks “x”" in page.read("abxc")
    assert page.read("abcab").startswith("Read: 5 tokens")
    assert page.locator("#all button").count() == 2 and len(page.cells("#lens")) == 6
    assert page.read("a").startswith("Read: 1 token")


@needs_browser
@pytest.mark.parametrize("a, b, line", [
    ("Long ago a", "Long ago a", "are the same"), ("Long ago a", "Long ago", "3 and 2 tokens"),
    ("Long ago a shy king", "Long ago a shy prince", "Both go on with “named”"),
    ("", "Long ago", "There is no text")])
def test_pairs_that_cannot_be_compared(visit, a, b, line):
    page = visit()
    if "tokens" in line: line = re.sub(r"3 and 2", "4 and 3", line)
    assert line in page.compare(a, b) and not page.is_visible("#patched")
    assert page.get_attribute("#patch-say", "class") == "wrong"


@needs_browser
def test_stop_and_no_network(visit, folder):
    page = visit()
    page.context.set_offline(True)
    assert "no network" in page.press("#look")
    page.context.set_offline(False)
    page.click("#pairs button:nth-of-type(3)")
    page.wait_for_function("document.querySelector('#patch-say').textContent.includes(' of ')")
    page.click("#stop")
    page.wait_for_function(IDLE)
    assert page.inner_text("#patch-say") == "Stopped." and page.is_disabled("#stop")
    assert page.compare().startswith("The first goes on")
    visit.wrong[:] = [line for line in visit.wrong if "ERR_INTERNET" not in line]


@needs_browser
def test_tags_are_text(visit):
    page = visit()
    page.read("Once <img src=x onerror=alert(1)> a king")
    assert page.locator(".inside :is(img, script)").count() == 0


def lines_of(part): return set(re.findall(r"(?:^|[,{] )\s*(\w+): \"", part, re.M))


def test_every_line_is_in_both_languages():
    source = (WEB / "inside-text.js").read_text("utf-8").partition("export const TEXT")[0]
    shared = (WEB / "playground-text.js").read_text("utf-8").partition("\n  zh: {")[0]
    english, chinese = map(lines_of, source.split("\n  zh: {"))
    html, script = ((WEB / f"inside{end}").read_text("utf-8") for end in (".html", "-page.js"))
    used = set(re.findall(r'data-text="(\w+)"', html))
    assert english == chinese and len(english) > 40, english ^ chinese
    assert used <= english | lines_of(shared)
    made = {"dream", "where", "home", "pronoun"}      # names of pairs
    assert english - used - set(re.findall(r"\w+", script)) - made == set()


def test_lines_are_short():
    for path in [*WEB.glob("inside*"), WEB / "shelf.js"]:
        assert max(map(len, path.read_text("utf-8").splitlines())) <= 100, path.name
