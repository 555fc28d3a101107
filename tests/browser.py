"What the tests of the site need of the machine, and what to say where it is missing."
import functools
import http.server
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
