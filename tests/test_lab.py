"""Widgets with Python behind them: notebooks run in JupyterLab in a real browser, with a slider
moved and a training run watched. The notebooks are chapters cut down to what a figure needs."""
import importlib.util
import re
import time
from pathlib import Path

import nbformat
import pytest
from browser import CHROMIUM
from lab import is_idle, running, wait_until_idle

ROOT = Path(__file__).parent.parent
WITHOUT = [name for name in ("jupyterlab", "jupyterlab_widgets", "ipywidgets")
           if importlib.util.find_spec(name) is None]
WITHOUT += [] if CHROMIUM else ["a browser (install chromium or Google Chrome)"]
pytestmark = pytest.mark.skipif(bool(WITHOUT), reason=f"without {', '.join(WITHOUT)}")

CUT = {"04_gradient": ["04-a631", "04-9de5", "04-c878", "04-8bdc", "04-30e6", "04-live2",
                       "04-live4", "04-live5", "04-live7"]}
TRAINING = """
import torch
from gpt_nb.data import tokenize
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.tales import Tales
from gpt_nb.tokenizer import WordTokenizer
from gpt_nb.training import TrainConfig, train

texts = Tales().texts(500)
tok = WordTokenizer.train(texts, vocab_size=200)
tokens = tokenize(texts, tok, progress=False)
model = GPT(GPTConfig("qwen3", tok.vocab_size, context=64, n_layer=1, n_head=2, d_model=32))
config = TrainConfig(minutes=0.2, batch_size=8, eval_tokens=500, log_every=1)
run = train(model, tokens, config, tok)
"""


def notebook(cells):
    "One that asks for no kernel."
    kernel = dict(display_name="python3", language="python", name="python3")
    return nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernel))


def cut_down(name, ids):
    "A notebook of some cells of a chapter."
    nb = nbformat.read(ROOT / "nbs" / f"{name}.ipynb", 4)
    cells = {c.id: c for c in nb.cells}
    code = [nbformat.v4.new_code_cell(cells[i].source) for i in ids]
    return notebook(code)


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    "The address of JupyterLab on these notebooks."
    home = tmp_path_factory.mktemp("lab")
    work = home / "nbs"
    work.mkdir()
    for name, ids in CUT.items(): nbformat.write(cut_down(name, ids), work / f"{name}.ipynb")
    training = notebook([nbformat.v4.new_code_cell(TRAINING.strip())])
    nbformat.write(training, work / "training.ipynb")
    with running(home, work) as address: yield address


@pytest.fixture
def run(browser, jupyter):
    "run(name): a notebook, opened and all of it started."
    pages = []

    def run(name):
        page = browser.new_page(viewport=dict(width=1280, height=1400))
        pages.append(page)
        page.goto(f"{jupyter}/lab/tree/{name}.ipynb?reset")
        page.wait_for_selector(".jp-NotebookPanel", timeout=60_000)
        wait_until_idle(jupyter, name, 60, times=2)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name=re.compile("^Run All Cells")).click()
        return page

    yield run
    for page in pages: page.close()


def wait_for(found, seconds=30):
    "Until it is found."
    end = time.time() + seconds
    while time.time() < end:
        if found(): return
        time.sleep(0.1)
    raise AssertionError("it did not come")


def test_a_slider_of_a_live_figure_answers(run):
    page = run("04_gradient")
    label = page.locator(".widget-label", has_text=re.compile("^back$"))
    handle = page.locator(".widget-hslider", has=label).get_by_role("slider")
    handle.wait_for(timeout=60_000)
    output = page.locator(".jp-OutputArea", has=handle).first
    shown = lambda: output.locator("table").first.inner_text()
    wait_for(lambda: "log p" in shown())
    before = shown()
    handle.focus()
    page.keyboard.press("ArrowRight")
    wait_for(lambda: shown() != before)
    assert len(re.findall(r"-?\d\.\d{4}", shown())) == len(re.findall(r"-?\d\.\d{4}", before)) + 1
    assert "Traceback" not in output.inner_text()


def test_a_run_is_drawn_while_it_goes(run, jupyter):
    page = run("training")
    picture = page.locator(".jp-OutputArea img")
    picture.first.wait_for(timeout=60_000)
    first, running_still = picture.first.get_attribute("src"), not is_idle(jupyter, "training")
    wait_for(lambda: picture.first.get_attribute("src") != first)   # drawn anew in its place
    wait_until_idle(jupyter, "training", 60, times=3)
    assert running_still and picture.count() == 1
    assert "Traceback" not in page.locator(".jp-OutputArea").first.inner_text()
