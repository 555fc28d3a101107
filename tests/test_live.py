"""Figures that a page computes: they show what Python shows for the same values of the controls,
and answer a reader in a real browser that is allowed nothing outside."""
import html
import json
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
from browser import CHROMIUM, missing, served

ROOT = Path(__file__).parent.parent
WEB = ROOT / "gpt_nb" / "web"
sys.path[:0] = [str(ROOT / "tools")]
from frames import page as as_page  # noqa: E402
from live import DATA, write_models  # noqa: E402

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason=missing())


def figures() -> dict[str, dict]:
    "All that the notebooks recorded, by the name of the module."
    found = {}
    for path in sorted((ROOT / "docs" / "frames").glob("*.json")):
        for shown in json.loads(path.read_text("utf-8")).values():
            found |= {one["live"]["name"]: one for one in shown if "live" in one}
    return found


FIGURES = figures()


STYLE = ("<style>:root { --color-foreground-primary: #000; --color-background-primary: #fff; "
         "--color-background-secondary: #f8f9fb; --color-foreground-muted: #6b6f76 }</style>")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    "A page for each figure, as the site has them, served on this machine."
    from gpt_nb.page import world_data

    folder = tmp_path_factory.mktemp("live")
    shutil.copytree(WEB, folder / "web")
    write_models(folder / "web" / "live" / "models")
    world = json.dumps(world_data("en"), ensure_ascii=False)
    (folder / "web" / "world-en.json").write_text(world, "utf-8")
    for name in ("site.js", "site.css"): shutil.copy(ROOT / "docs" / "_static" / name, folder)
    for name, found in FIGURES.items():
        text = (f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{name}</title>"
                '<meta name=viewport content="width=device-width"><link rel=icon href="data:,">'
                f'{STYLE}<link rel=stylesheet href="site.css"><script src="site.js"></script>'
                '</head><body><main><h1>A figure</h1><div class="output text_html">'
                f"{as_page(found)}</div></main></body></html>")
        (folder / f"{name}.html").write_text(text, "utf-8")
    with served(folder) as address: yield address


@pytest.fixture
def visit(browser, address):
    "visit(figure) opens its page; an error in the console or a request outside fails the test."
    wrong, contexts = [], []

    def visit(name, refused="", **how):
        size = dict(width=how.pop("width", 1000), height=900)
        context = browser.new_context(viewport=size, **how)
        contexts.append(context)
        page = context.new_page()

        def route(route):
            inside = route.request.url.startswith(address)
            if not inside: wrong.append(f"asks for {route.request.url}")
            if inside and not (refused and refused in route.request.url): route.continue_()
            else: route.abort()

        context.route(lambda url: not url.startswith(("data:", "blob:")), route)
        on_console = lambda m: m.type == "error" and not refused and wrong.append(m.text)
        page.on("console", on_console)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{address}/{name}.html")
        return page

    yield visit
    for context in contexts: context.close()
    assert not wrong, wrong[:5]


def start(page):
    "Press the button, if there is one, and wait until the page computes."
    page.wait_for_selector(".turn.live, .turn button")
    if page.locator(".turn button").count(): page.locator(".turn button").click()
    page.wait_for_selector(".turn.live")
    settle(page)


def settle(page, seconds=30):
    "Until the figure has said the same thing for a while, and no fetching."
    before, end = None, time.time() + seconds
    while time.time() < end:
        shown = page.locator(".frame").inner_html()
        if shown == before and "fetching" not in shown: return shown
        before = shown
        page.wait_for_timeout(250)
    raise AssertionError(f"does not come to rest: {before[:300]}")


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?%?")


def said(text: str) -> tuple[str, list[float]]:
    "The words and the numbers of HTML."
    plain = html.unescape(re.sub(r"<[^>]*>", " ", text))
    words = re.sub(r"\s+", " ", NUMBER.sub("0", plain)).strip()
    found = NUMBER.findall(plain)
    return words, [float(n.rstrip("%")) / (100 if n.endswith("%") else 1) for n in found]


VIEW = """async ([name, values, data]) => {
  const {view} = await import(`./web/live/${name}.js`);
  try { return await view(values, data, {say() {}, async pause() {}}); }
  catch (error) { return `<p>${error.message}</p>`; }   // one clear line
}"""


def test_each_module_has_its_figure():
    modules = {path.stem for path in (WEB / "live").glob("*.js")} - {"figure"}
    assert modules == set(FIGURES) == set(DATA)


def test_modules_are_short_lines():
    for path in (WEB / "live").glob("*.js"):
        assert max(map(len, path.read_text("utf-8").splitlines())) <= 100, path.name


def drawn(nb: dict, cell: str) -> list[str]:
    "HTML that the widget of a cell holds where the notebook was saved."
    state = nb["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    parts = [part["state"] for key, part in state.items() if key.startswith(f"{cell}-")]
    outputs = [output for part in parts for output in part.get("outputs", ())]
    return ["".join(output["data"]["text/html"]) for output in outputs]


@pytest.mark.parametrize("name", FIGURES)
def test_in_jupyter_it_stands_as_in_the_page(name):
    [path] = [path for path in (ROOT / "nbs").glob("*.ipynb")
              if f'"live-{name}"' in path.read_text("utf-8")]
    nb = json.loads(path.read_text("utf-8"))
    [cell] = [c for c in nb["cells"] if f"live-{name}" in c["metadata"].get("tags", ())]
    assert len("".join(cell["source"]).splitlines()) <= 40
    [shown] = drawn(nb, cell["id"])
    in_page = as_page(FIGURES[name]).partition('"polite">')[2].partition("<script")[0]
    assert said(shown) == said(in_page)


@needs_browser
@pytest.mark.parametrize("name", FIGURES)
def test_the_page_shows_what_python_shows(visit, name):
    live = FIGURES[name]["live"]
    page, names = visit(name), [control["name"] for control in live["controls"]]
    assert len(live["checks"]) >= 8
    for values, shown in live["checks"]:
        there = page.evaluate(VIEW, [name, dict(zip(names, values)), json.loads(live["data"])])
        (words, numbers), (python_words, python_numbers) = said(there), said(shown)
        assert words == python_words, values
        assert numbers == pytest.approx(python_numbers, rel=1e-4, abs=1.01e-4), values


@needs_browser
@pytest.mark.parametrize("name", FIGURES)
def test_each_control_changes_the_figure(visit, name):
    page = visit(name)
    start(page)
    for control in page.locator(".turn :is(input, select, textarea)").all():
        seen, kind = {settle(page)}, control.get_attribute("type")
        if kind == "range":
            for key in ("Home", "End", "PageDown"):
                control.press(key)
                seen.add(settle(page))
            assert control.get_attribute("aria-valuetext")
        elif kind == "checkbox":
            control.press("Space")
            seen.add(settle(page))
        elif control.evaluate("c => c.tagName") == "SELECT":
            for label in control.locator("option").all_inner_texts():
                control.select_option(label)
                seen.add(settle(page))
        else:
            assert control.is_editable()
            control.fill("One day the king")
            seen.add(settle(page))
        assert len(seen) > 1, control.evaluate("c => c.closest('label').innerText")
        assert not any(re.search("undefined|NaN|Infinity", shown) for shown in seen)


@needs_browser
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_accessible_and_fits_a_phone(visit, axe, name):
    page = visit(name, width=390)
    start(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    grave = [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found
             if v["impact"] in ("serious", "critical")]
    assert not grave, grave


@needs_browser
@pytest.mark.parametrize("name", FIGURES)
def test_frames_remain_where_the_module_cannot_run(visit, name):
    page = visit(name, refused=f"live/{name}.js")
    page.wait_for_timeout(500)
    frame, control = page.locator(".frame"), page.locator(".turn input[type=range]").first
    before = frame.inner_html()
    for key in ("Home", "End"): control.press(key)
    if control.get_attribute("max") != "0": assert frame.inner_html() and before
    assert page.locator(".turn.live").count() == 0


LONG = """() => { window.long = []; new PerformanceObserver(list =>
    long.push(...list.getEntries().map(entry => entry.duration))).observe({type: 'longtask'}); }"""


@needs_browser
@pytest.mark.parametrize("name", FIGURES)
def test_no_task_is_long(visit, name):
    page = visit(name)
    start(page)
    page.evaluate(LONG)
    for control in page.locator(".turn input[type=range]").all():
        for key in ("Home", "End", "PageDown"):
            control.press(key)
            settle(page)
    page.wait_for_timeout(200)
    assert max(page.evaluate("long"), default=0) <= 100
