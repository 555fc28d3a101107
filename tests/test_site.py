"""The site as a reader meets it: built from the notebooks, opened in a real browser that is allowed
nothing outside."""
import fcntl
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from browser import CHROMIUM, missing, served
from lab import running, wait_until_idle

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted(path.stem for path in (ROOT / "nbs").glob("[0-9][0-9]*_*.ipynb"))
BESIDE = ["index", "zh", "start", "start-zh", "glossary", "use", "search", "playground",
          "inside", "talk", "training", "notebooks/claims", "notebooks/programs", "notebooks/speed",
          "notebooks/promises", "notebooks/howto", "notebooks/howto-zh"]
REFERENCE = ["reference/index", "reference/05_attention", "reference/08_model"]
PAGES = [*BESIDE, *REFERENCE, *(f"notebooks/{name}" for name in CHAPTERS)]
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason=missing())
pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason=missing())


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "Built once by `make docs`' own commands, for all workers."
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    out = shared / "site"
    with open(shared / "site.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "index.html").is_file():
            install = ["npm", "ci", "--no-audit", "--no-fund", "--silent"]
            subprocess.run(install, cwd=ROOT / "docs", check=True)
            sphinx = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"]
            command = [*sphinx, "-d", shared / "doctrees", "docs", out]
            built = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
            assert built.returncode == 0 and not built.stderr.strip(), built.stderr
    return out


@pytest.fixture(scope="session")
def address(site):
    "The site, served on this machine."
    with served(site) as address: yield address


@pytest.fixture
def visit(browser, address):
    "visit(path) opens a page; what it does wrong goes into visit.wrong and fails the test."
    wrong, contexts = [], []

    def visit(path, scheme="light", width=1280, base=address):
        context = browser.new_context(viewport=dict(width=width, height=900), color_scheme=scheme)
        contexts.append(context)
        inside = lambda url: url.startswith((base, "data:", "blob:"))
        blame = lambda what: wrong.append(f"{path}: {what}")

        def refuse(route):
            blame(f"asks for {route.request.url}")
            route.abort()

        def on_console(message):
            if message.type == "error": blame(message.text)

        def on_failure(request):
            ours = inside(request.url) and not request.url.startswith("blob:")
            if ours: blame(f"{request.url} failed")

        def on_response(response):
            if response.status >= 400: blame(f"{response.status} {response.url}")

        context.route(lambda url: not inside(url), refuse)
        page = context.new_page()
        page.on("console", on_console)
        page.on("pageerror", blame)
        page.on("requestfailed", on_failure)
        page.on("response", on_response)
        whole = path.endswith("html") or "?" in path
        page.goto(f"{base}/{path}" if whole else f"{base}/{path}.html", wait_until="load")
        return page

    visit.wrong = wrong
    yield visit
    for context in contexts: context.close()
    assert not wrong, wrong[:10]


class Links(HTMLParser):
    "What a page points to, what in it can be pointed at, and pictures without words."
    def __init__(self, text):
        super().__init__()
        self.targets, self.ids, self.mute = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if "id" in a: self.ids.add(a["id"])
        for key in ("href", "src"):
            if a.get(key): self.targets.append(a[key])
        wordless = re.search(r"^$|\.(png|svg)$", a.get("alt") or "")
        if tag == "img" and wordless: self.mute.append(a.get("src"))


def test_no_link_is_broken_and_every_picture_has_words(site):
    pages = {path: Links(path.read_text("utf-8")) for path in site.rglob("*.html")}
    broken, mute = [], []
    for path, page in pages.items():
        mute += [f"{path.relative_to(site)}: {src}" for src in page.mute]
        is_source = path.relative_to(site).parts[0] == "_modules"
        for target in page.targets:
            if re.match(r"[a-z]+:|//", target): continue
            file, anchor = urldefrag(target.split("?")[0] if "?" in target else target)
            there = (path.parent / unquote(file)).resolve() if file else path
            known = there in pages and not is_source
            lost = anchor and known and unquote(anchor) not in pages[there].ids
            if lost or not there.is_file(): broken.append(f"{path.relative_to(site)} -> {target}")
    assert not broken, broken[:20]
    assert not mute, mute[:20]


def test_tables_in_outputs_are_tables(site):
    pages = {path.name: path.read_text("utf-8") for path in (site / "notebooks").glob("*.html")}
    assert all(not re.search(r"<p>\s*\|", text) for text in pages.values())
    page = pages["03_ngram.html"]
    assert '<div class="cell_output' in page and page.count("<table") > 10


def test_the_site_is_small(site):
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 55e6


def public_names(module):
    "What a module exports, in full."
    return {f"{module}.{name}" for name in importlib.import_module(module).__all__}


def test_every_public_name_has_its_reference(site):
    from sphinx.util.inventory import InventoryFile

    with open(site / "objects.inv", "rb") as f: kinds = InventoryFile.load(f, "", os.path.join)
    known = {name for kind in kinds.values() for name in kind}
    modules = [f"gpt_nb.{chapter.partition('_')[2]}" for chapter in CHAPTERS]
    public = {name for module in modules for name in public_names(module)}
    assert public and public <= known, public - known


def test_programs_are_told_what_there_is(site):
    text = (site / "llms.txt").read_text("utf-8")
    assert text.startswith("# gpt_nb") and all(f"{name}.ipynb" in text for name in CHAPTERS)


def test_every_exported_cell_says_where_it_goes(site):
    page = (site / "notebooks" / "05_attention.html").read_text("utf-8")
    assert page.count("becomes part of") >= 6
    assert "reference/05_attention.html#gpt_nb.attention.rope" in page
    reference = (site / "reference" / "05_attention.html").read_text("utf-8")
    assert "notebooks/05_attention.html#built-gpt-nb-attention-rope" in reference


def described(violation):
    "Its first three places, in a line each."
    for node in violation["nodes"][:3]:
        place, why = f"{node['target']} {node['html'][:150]}", node["failureSummary"][-150:]
        yield f"{violation['id']}: {place} {why}"


NOT_LOADED = """[...document.images]
    .filter(i => getComputedStyle(i).display !== 'none' && i.loading !== 'lazy' && !i.naturalWidth)
    .map(i => i.src)"""
VIOLATIONS = "axe.run(document, {resultTypes: ['violations']})"


@needs_browser
@pytest.mark.parametrize("path", PAGES)
def test_page_is_accessible(visit, axe, path):
    page = visit(path)
    page.evaluate(axe)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(300)
        assert page.evaluate(NOT_LOADED) == []
        found = page.evaluate(VIOLATIONS)["violations"]
        grave = [v for v in found if v["impact"] in ("serious", "critical")]
        bad = [line for violation in grave for line in described(violation)]
        assert not bad, "\n".join(bad)


@needs_browser
@pytest.mark.parametrize("path", PAGES)
def test_page_fits_screens(visit, path):
    page = visit(path, width=390)
    for width in (390, 1024, 1440):
        page.set_viewport_size(dict(width=width, height=900))
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@needs_browser
@pytest.mark.parametrize("path", PAGES)
def test_nothing_scrolls_sideways(visit, path):
    wide = """boxes => [...document.querySelectorAll(boxes)]
        .filter(box => box.scrollWidth > box.clientWidth + 1)
        .filter(box => getComputedStyle(box).overflowX !== "visible")
        .map(box => box.textContent.slice(0, 60))"""
    for width, boxes in ((1440, "pre, table, .output, .table-wrapper"), (390, "pre")):
        page = visit(path, "light", width=width)
        assert page.evaluate(wide, boxes) == [], width


def test_chinese_names_every_section_and_three_things(site):
    sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "tools")]
    from chapters import Chapter

    for path in sorted((ROOT / "nbs").glob("[0-9][0-9]*_*.ipynb")):
        chapter = Chapter(path)
        assert len(chapter.chinese.remember) == 3, path.name
        assert len(chapter.chinese.sections) == len(chapter.sections), (path.name, chapter.sections)


def test_how_do_i_is_the_same_in_chinese(site):
    pages = [site / "notebooks" / f"{name}.html" for name in ("howto", "howto-zh")]
    english, chinese = [page.read_text("utf-8") for page in pages]
    for mark in ("<h2>", "<h3>", '<div class="highlight-', "<img "):
        assert english.count(mark) == chinese.count(mark) > 0, mark
    assert english.count("<h3>") > 20 and "gb18030" in chinese and "怎样改学习率" in chinese
    assert "%%writefile" not in english and ">!gpt-nb" not in english


def test_the_web_handler_of_how_do_i_is_that_of_chapter_14():
    text = {name: "".join("".join(cell["source"]) for cell in json.loads(
        (ROOT / "nbs" / f"{name}.ipynb").read_text("utf-8"))["cells"])
            for name in ("14_pretrained", "howto")}
    [chapter] = re.findall(r"```python\n# serve\.py.*?\n(.*?)\n```", text["14_pretrained"], re.S)
    assert f"%%writefile serve.py\n{chapter}" in text["howto"]


def test_the_chinese_start_page_has_chinese_heads(site):
    heads = re.findall(r"<th[^>]*>(.*?)</th>", (site / "start-zh.html").read_text("utf-8"), re.S)
    words = [re.sub(r"<.*?>", "", head).strip() for head in heads]
    assert len(words) > 8 and not [word for word in words if re.search("[A-Za-z]", word)]


def test_words_lead_to_the_glossary(site):
    page = (site / "notebooks" / "05_attention.html").read_text("utf-8")
    assert 3 < page.count('class="term') < 60 and "../glossary.html#term-" in page
    assert "词元" in (site / "glossary.html").read_text("utf-8")


def test_planned_chapters_stand_on_the_map(site):
    page = (site / "index.html").read_text("utf-8")
    assert page.count('class="planned"') >= 3 and "(planned)" in page


@needs_browser
def test_a_folded_cell_is_one_line(visit, site):
    folded = re.compile(r'<details class="[^"]*hide above-input">')
    pages = {name: site / "notebooks" / f"{name}.html" for name in CHAPTERS}
    name = next(n for n, page in pages.items() if folded.search(page.read_text("utf-8")))
    fold = visit(f"notebooks/{name}").locator("details.hide.above-input").first
    assert not fold.evaluate("d => d.open") and len(fold.locator("summary").inner_text()) > 5
    fold.locator("summary").click()
    assert fold.locator("pre").first.is_visible()


@needs_browser
def test_the_chinese_page_is_chinese_around_it_too(visit):
    page = visit("zh")
    assert page.locator(".sidebar-search").get_attribute("placeholder") == "搜索"
    side = page.locator(".sidebar-tree").inner_text()
    assert "猜下一个词" in side and "注意力" in side and "Guess" not in side


@needs_browser
def test_every_other_page_opens(visit, site):
    for path in sorted(site.glob("*.html")) + sorted((site / "reference").glob("*.html")):
        name = path.relative_to(site).with_suffix("").as_posix()
        if name not in PAGES: visit(name).close()


@needs_browser
def test_home_is_light(visit):
    page = visit("index")
    sizes = page.evaluate("""['resource', 'navigation']
        .flatMap(kind => performance.getEntriesByType(kind)).map(entry => entry.decodedBodySize)""")
    assert sum(sizes) < 1e6
    assert page.locator(".story blockquote").inner_text().count(".") > 5
    assert page.locator("img.only-light").is_visible()
    assert not page.locator("img.only-dark").is_visible()


@needs_browser
@pytest.mark.parametrize("query, done", [("", "Done"), ("?model=tales-zh", "写完了")])
def test_the_playground_writes(visit, query, done):
    page = visit(f"playground.html{query}")
    page.click("#write")
    page.wait_for_function(f"document.querySelector('#say').textContent.startsWith('{done}')")
    assert page.locator("#story .token").count() > 50


@needs_browser
@pytest.mark.parametrize("query", ["", "?lang=zh"])
def test_the_page_of_talking_answers(visit, query):
    page = visit(f"talk.html{query}")
    page.locator("#suggestions button").first.click()
    page.wait_for_selector("#talk .note b")
    assert page.locator("#talk li").count() == 1 and page.is_visible(".chapters a")


@needs_browser
@pytest.mark.parametrize("query, first", [("", "bigram"), ("?lang=zh", "二元模型")])
def test_the_page_of_training_trains(visit, query, first):
    page = visit(f"training.html{query}")
    page.click("#train")
    page.wait_for_selector("#written li:nth-child(3)", timeout=120_000)
    assert page.locator("#written h3").first.inner_text().startswith(first)
    page.click("#reset")


@needs_browser
def test_mathematics_is_set_and_chinese_shown(visit):
    page = visit("notebooks/05_attention")
    page.locator("details.zh summary").click()
    page.wait_for_selector("details.zh mjx-container")
    assert page.locator("details.zh mjx-container").first.bounding_box()["width"] > 50
    assert "注意力" in page.locator("details.zh").inner_text()
    assert visit("zh").evaluate("document.documentElement.lang") == "zh-CN"


def fonts_of(page, selector):
    "The fonts that Chromium draws an element's text with."
    session = page.context.new_cdp_session(page)
    for domain in ("DOM", "CSS"): session.send(f"{domain}.enable")
    root = session.send("DOM.getDocument")["root"]["nodeId"]
    found = session.send("DOM.querySelectorAll", dict(nodeId=root, selector=selector))["nodeIds"]
    answers = [session.send("CSS.getPlatformFontsForNode", dict(nodeId=node)) for node in found]
    used = [answer["fonts"] for answer in answers]
    return [{font["familyName"] for font in fonts} for fonts in used]


MARK = """document.querySelectorAll('.headerlink, mjx-assistive-mml').forEach(e => e.remove());
let latin = 0;
for (const e of document.querySelectorAll('body *')) {
  const text = [...e.childNodes].filter(n => n.nodeType == 3).map(n => n.data).join('').trim();
  const marked = e.tagName == 'SUMMARY';   // its triangle is no Chinese
  if (!marked && /^[\u4e00-\u9fff]+$/.test(text)) e.classList.add('all-chinese');
  if (/^[A-Za-z ]+$/.test(text) && ++latin < 40) e.classList.add('all-latin');
}"""


@needs_browser
@pytest.mark.parametrize("path", ["zh", "index", "notebooks/03_ngram"])
def test_chinese_has_a_font(visit, path):
    page = visit(path)
    page.evaluate("document.fonts.load('16px \"gpt_nb Chinese\"', '中')")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<pre><b>注意力</b></pre>')")
    page.evaluate(MARK)
    page.wait_for_timeout(500)
    chinese, latin = fonts_of(page, ".all-chinese"), fonts_of(page, ".all-latin")
    assert len(set().union(*chinese)) == 1, chinese
    both = set().union(*chinese) & set().union(*latin)
    assert not both, "Chinese falls back to a font without it"


@needs_browser
def test_the_language_can_be_switched(visit):
    page = visit("notebooks/03_ngram")
    page.locator(".language a").click()
    page.wait_for_url("**/zh.html#zh-03")
    page.locator(".language a").click()
    page.wait_for_url("**/index.html")


@needs_browser
@pytest.mark.parametrize("path, label, last", [
    ("index", "tokens read", "6,852,088"),
    ("zh", "读过的词元", "5,517,332"),
])
def test_the_slider_at_home_shows_what_was_learned(visit, path, label, last):
    page, shown = visit(path), ".growing .frame"
    assert page.locator(".growing label span").inner_text() == label
    first = page.locator(shown).inner_text()
    page.locator(".growing input").focus()
    page.keyboard.press("End")
    assert page.locator(shown).count() == 1 and page.locator(shown).inner_text() != first
    said = page.locator(".growing input").get_attribute("aria-valuetext")
    assert page.locator(".growing output").inner_text() == said == last


@needs_browser
@pytest.mark.parametrize("path", [path for path in PAGES if re.match(r"notebooks/\d", path)])
def test_widgets_turn(visit, path):
    page = visit(path)
    assert page.locator(".jupyter-widgets").count() == 0 and page.locator(".turn").count()
    for box in page.locator(".turn").all():
        seen, frame = {box.locator(".frame").inner_html()}, box.locator(".frame")
        for control in box.locator("input[type=range]").all():
            for key in ("Home", "End"):
                control.press(key)
                seen.add(frame.inner_html())
        for control in box.locator("input[type=checkbox]").all():
            control.click()
            seen.add(frame.inner_html())
        for control in box.locator("select").all():
            control.select_option(index=1)
            seen.add(frame.inner_html())
        assert len(seen) > 1 and all(seen)
        assert not any("Traceback" in html or "undefined" in html for html in seen)


@needs_browser
def test_solutions_and_code_unfold(visit):
    page = visit("notebooks/03_ngram")
    fold = page.locator("article details", has=page.locator("summary", has_text="Solution")).first
    assert not fold.evaluate("d => d.open")
    fold.locator("summary").click()
    assert fold.evaluate("d => d.open")


FOUND = [
    ("rotary", "05_attention"),
    ("Kneser-Ney", "03_ngram"),
    ("RMSNorm", "05_attention"),
    ("温度", "zh"),
    ("今天天气", "01_tokenizer"),
    ("learning rate", "howto"),
    ("perplexity", "howto"),
    ("TensorBoard", "howto"),
    ("微调", "howto-zh"),
    ("续写", "howto-zh"),
    ("学习率", "howto-zh"),
]
FIRST = [
    ("attention", "05_attention"),
    ("top-p", "10_sampling"),
    ("backpropagation", "04_gradient"),
    ("注意力", "05_attention"),
    ("LoRA", "howto"),
    ("微调", "howto-zh"),
    ("train on my texts", "howto"),
    ("encoding", "howto"),
    ("resume", "howto"),
    ("next token probability", "howto"),
    ("learning rate", "howto"),
    ("量化", "howto-zh"),
    ("多卡", "howto-zh"),
]


def searched(visit, query):
    "Where the results lead, best first."
    page = visit(f"search.html?q={query}")
    page.wait_for_selector("ul.search li a")
    page.wait_for_timeout(1000)
    return page.eval_on_selector_all("ul.search li a", "links => links.map(a => a.href)")


@needs_browser
@pytest.mark.parametrize("query, found", FOUND)
def test_search_finds(visit, query, found):
    assert any(found in link for link in searched(visit, query))


@needs_browser
@pytest.mark.parametrize("query, first", FIRST)
def test_search_finds_chapters_before_the_reference(visit, query, first):
    links = searched(visit, query)
    chapters = [i for i, link in enumerate(links) if "/notebooks/" in link]
    reference = [i for i, link in enumerate(links) if "/reference/" in link]
    assert first in links[0] and max(chapters) < min(reference, default=len(links)), links


@needs_browser
def test_dark_mode(visit):
    page = visit("index")
    ground = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")
    seen = {ground()}
    for _ in range(2):
        page.locator(".theme-toggle:visible").first.click()
        seen.add(ground())
    assert len(seen) == 2


@needs_browser
def test_the_folder_can_be_read_without_a_server(visit, site):
    for path in ("index", "notebooks/05_attention", "notebooks/00_tales"):
        page = visit(path, base=site.as_uri())
        page.wait_for_timeout(500)
    before = page.locator(".turn .frame").first.inner_html()
    page.get_by_label("seed").press("End")
    assert page.locator(".turn .frame").first.inner_html() != before
    for path in ("playground", "inside", "talk", "training"):
        page = visit(path, base=site.as_uri())
        assert "only from a server" in page.inner_text("#say")
    page = visit("search.html?q=temperature", base=site.as_uri())
    page.wait_for_selector("ul.search li a")


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    "JupyterLab on two notebooks."
    home = tmp_path_factory.mktemp("jupyter")
    work = home / "nbs"
    work.mkdir()
    for name in ("05_attention", "08_model"): shutil.copy(ROOT / "nbs" / f"{name}.ipynb", work)
    with running(home, work) as address: yield address


@needs_browser
@pytest.mark.parametrize("name, slider", [("05_attention", "asks"), ("08_model", "depth")])
def test_a_slider_answers_in_jupyterlab(browser, jupyter, name, slider):
    page = browser.new_page(viewport=dict(width=1280, height=900))
    page.goto(f"{jupyter}/lab/tree/{name}.ipynb?reset")
    page.wait_for_selector(".jp-NotebookPanel", timeout=60_000)
    wait_until_idle(jupyter, name)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name=re.compile("^Run All Cells")).click()
    page.wait_for_timeout(2000)
    wait_until_idle(jupyter, name)
    # the widget's own view lies far down: bring its cell into sight
    page.locator(".jp-Notebook").first.focus()
    label = page.locator(".widget-label", has_text=re.compile(f"^{slider}$"))
    handle = page.locator(".widget-hslider", has=label).locator(".noUi-handle").first
    for _ in range(400):
        if handle.count(): break
        page.mouse.move(700, 500)
        page.mouse.wheel(0, 600)
        page.wait_for_timeout(50)
    handle.scroll_into_view_if_needed()
    output = page.locator(".jp-OutputArea", has=handle).first
    shown = lambda: output.inner_text() + output.inner_html()
    before = shown()
    handle.focus()
    for _ in range(3): page.keyboard.press("ArrowLeft")
    for _ in range(40):
        if shown() != before: break
        page.wait_for_timeout(250)
    assert shown() != before and "Traceback" not in output.inner_text()
    page.close()
