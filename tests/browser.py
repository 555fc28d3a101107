"What the tests of the site need of the machine, and what to say where it is missing."
import os
import shutil
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
