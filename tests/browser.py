"What the tests of the site need of the machine, and what to say where it is missing."
import functools
import http.server
import json
import os
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
ON_A_MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
if CHROMIUM is None and ON_A_MAC.is_file(): CHROMIUM = str(ON_A_MAC)
REQUIRED = os.environ.get("REQUIRE_BROWSER", "") not in ("", "0")


def missing() -> str:
    "What is not there; nothing if all is."
    if shutil.which("npm") is None: return "no npm (install nodejs and npm to build the site)"
    if CHROMIUM is None: return "no browser (install chromium or Google Chrome)"
    return ""


class Quiet(http.server.SimpleHTTPRequestHandler):
    "Serves files and prints nothing."
    def log_message(self, *args): pass


@contextmanager
def running(server: http.server.ThreadingHTTPServer):
    "Its address, while it serves."
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host, port = server.server_address
    yield f"http://{host}:{port}"
    server.shutdown()


def served(folder: Path):
    "The address of a folder's files, served on this machine."
    handler = functools.partial(Quiet, directory=str(folder))
    return running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))


@contextmanager
def started():
    "A browser that does nothing of its own accord."
    from playwright.sync_api import sync_playwright

    quiet = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
             "disable-background-networking", "disable-component-update")
    with sync_playwright() as p:
        yield p.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in quiet])


@contextmanager
def watched(browser, address):
    """new_tab(width, init, ...): a tab that is allowed nothing outside the address. What goes wrong
    in one is an error in the end, unless it is taken out of `new_tab.wrong`."""
    wrong, contexts = [], []

    def refuse(route):
        wrong.append(f"asks for {route.request.url}")
        route.abort()

    def new_tab(width=1280, init="", **options):
        context = browser.new_context(viewport=dict(width=width, height=900), **options)
        contexts.append(context)
        context.route(lambda url: not url.startswith((address, "data:", "blob:")), refuse)
        if init: context.add_init_script(init)
        tab = context.new_page()
        tab.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        return tab

    new_tab.wrong = wrong
    yield new_tab
    for context in contexts: context.close()
    assert not wrong, wrong[:10]


@contextmanager
def scripted(browser, address, head):
    """script(text, **given): what JavaScript returns in an empty page. Before it stands `head`,
    which may import modules; `open(name)` is a model of the page, opened once."""
    page = browser.new_page()
    page.goto(f"{address}/empty.html")
    begin = """async (text) => {
        const given = JSON.parse(text), E = await import("/engine.js"), kept = window.kept ??= {};
        const open = async (name) => kept[name] ??= await E.openModel(`/models/${name}`);
        const plain = (key, value) => value instanceof Float32Array ? Array.from(value) : value;
    """

    def script(text, **given):
        work = f"const work = async () => {{\n{text}\n}};"
        whole = f"{begin}{head}{work}\nreturn JSON.stringify(await work(), plain);\n}}"
        return json.loads(page.evaluate(whole, json.dumps(given)))

    yield script
    page.close()
