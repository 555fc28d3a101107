"Chinese is drawn on every machine, with the font that comes with the package."
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from font import FONT, NEWER, characters, is_chinese, used, usual, write_web_font  # noqa: E402


def test_the_font_has_every_character_that_is_shown():
    has, shown = characters(FONT), used()
    assert len(shown) > 700 and all(map(is_chinese, shown))
    missing = {char: file for char, file in shown.items() if char not in has}
    assert missing.keys() <= NEWER, f"cut the font anew with tools/font.py: {missing}"
    assert usual() <= has


def test_the_site_has_a_font_that_is_light(tmp_path):
    write_web_font(tmp_path / "font.woff")
    assert characters(tmp_path / "font.woff") >= used().keys() - NEWER
    assert (tmp_path / "font.woff").stat().st_size < 250_000


def test_a_character_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("font.used", lambda: {"天": "here.md", "\u9fff": "there.md"})
    with pytest.raises(ValueError, match="there.md"): write_web_font(tmp_path / "font.woff")


def test_its_licence_travels_with_it():
    text = (FONT.parent / "OFL.txt").read_text("utf-8")
    assert "SIL OPEN FONT LICENSE Version 1.1" in text
    assert "Modified Version of Noto Sans CJK SC" in text
    assert '"fonts/*"' in (ROOT / "setup.py").read_text("utf-8")
    assert FONT.stat().st_size < 1_000_000


DRAW = """
import sys, warnings
warnings.simplefilter("error")
from matplotlib.font_manager import fontManager
import matplotlib.pyplot as plt
if sys.argv[1] == "stale":
    fontManager.ttflist[:] = [font for font in fontManager.ttflist if "DejaVu" in font.name]
from gpt_nb.tales import plot_fonts
plot_fonts()
plot_fonts()
plt.figure().suptitle("妮娜在花园里（今天天气很好）。")
for kind in ("png", "svg", "pdf"): plt.savefig(f"{sys.argv[2]}/plot.{kind}")
print(sum(font.name == "gpt_nb Chinese" for font in fontManager.ttflist))
"""


@pytest.mark.parametrize("fonts", ["new", "stale"])
def test_matplotlib_draws_chinese(fonts, tmp_path):
    empty = dict(MPLCONFIGDIR=str(tmp_path), XDG_CACHE_HOME=str(tmp_path), PYTHONPATH=str(ROOT))
    command = [sys.executable, "-c", DRAW, fonts, tmp_path]
    done = subprocess.run(command, env=os.environ | empty, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr
