"""Each notebook is one test: run from top to bottom as `nbdev_test` runs it.

Each in a process of its own that a time-out can end; a box drawn for a letter is an error."""
import contextlib
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
SECONDS = float(os.environ.get("NOTEBOOK_SECONDS", "240"))   # a guard: 100 on a quiet machine


def run(path, connection):
    os.chdir(ROOT / "nbs")
    from nbdev.config import get_config
    from nbdev.test import test_nb

    flags, errors = skipped_flags(get_config().tst_flags.split()), io.StringIO()
    boxes = gather_boxes()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        passed, _ = test_nb(path, skip_flags=flags, basepath=ROOT)
    connection.send((passed and not boxes, errors.getvalue() + "\n".join(dict.fromkeys(boxes))))


def gather_boxes():
    "What matplotlib says, from now on, of letters that no font has."
    boxes, show = [], warnings.showwarning

    def note(message, *args, **kwargs):
        if "missing from" in str(message): boxes.append(str(message))
        else: show(message, *args, **kwargs)

    warnings.filterwarnings("always", message="Glyph .* missing from")
    warnings.showwarning = note
    return boxes


CELL = "import matplotlib.pyplot as plt\nfrom ipywidgets import interact\nplt.title('\u0e01');"
WIDGET = "@interact(n=(0, 2))\ndef show(n=0): plt.plot([n]), plt.title('\u0e01' * n)"


def test_what_runs_notebooks_refuses_boxes(tmp_path):
    import nbformat

    cells = [nbformat.v4.new_code_cell(text) for text in (CELL, WIDGET)]
    path = tmp_path / "bad.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    command = [sys.executable, ROOT / "tools" / "execute.py", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode, done.stderr
    for cell in cells: assert f"cell {cell.id} says: " in done.stderr
    assert done.stderr.count("missing from font") >= 2


@pytest.fixture
def project(tmp_path):
    "A project under git, with our tools: run(name) executes, lines() tells what then differs."
    if shutil.which("git") is None: pytest.skip("no git to tell what differs")
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    for folder in ("nbs/results", "docs"): (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "nbs" / "results" / "seconds.json").write_text("{}\n")
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]

    def git(*args):
        command = ["git", *identity, *args]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    def run(name):
        command = [sys.executable, "tools/execute.py", f"nbs/{name}.ipynb"]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
        assert not done.returncode, done.stderr

    def commit():
        git("add", "nbs", "docs")
        git("commit", "-q", "-m", "run")

    def lines():
        git("add", "--intent-to-add", "nbs", "docs")
        rows = [line.split("\t") for line in git("diff", "--numstat").stdout.splitlines()]
        return {path: (int(added), int(removed)) for added, removed, path in rows}

    git("init", "-q")
    yield SimpleNamespace(path=tmp_path, run=run, commit=commit, lines=lines)


LOOP = [
    "from pathlib import Path\nfrom time import sleep\nfrom ipywidgets import interact\n"
    "from tqdm.auto import tqdm",
    "@interact(n=(0, 9))\ndef show(n=2): print('n' * n)",
    "for i in tqdm(range(3)): sleep(0.01)",
    "f'{float(Path(\"seconds.txt\").read_text()):.2f} s'",
    "1 + 1",
]


def test_a_change_of_one_line_is_a_diff_of_one_line(project):
    import nbformat

    notebook, seconds = project.path / "nbs" / "loop.ipynb", project.path / "nbs" / "seconds.txt"
    cells = [nbformat.v4.new_code_cell(text) for text in LOOP]
    cells[3].metadata["tags"] = ["varies"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), notebook)

    def run(took):
        seconds.write_text(took)
        project.run("loop")
        return project.lines()

    run("1.0")
    assert json.loads((project.path / "nbs" / "results" / "seconds.json").read_text()).keys()
    text = notebook.read_text()
    assert text.count('"model_id"') == 1 and f'"model_id": "{cells[1].id}-0"' in text
    project.commit()
    assert run("2.9").keys() == {"nbs/seconds.txt"}
    project.commit()
    notebook.write_text(notebook.read_text().replace("1 + 1", "1 + 2"))
    assert run("2.9") == {"nbs/loop.ipynb": (2, 2)}   # the line and what it shows
    assert run("11")["nbs/loop.ipynb"] == (3, 3)      # eleven times as long is no noise
    assert "'11.00 s'" in notebook.read_text()


@pytest.mark.parametrize("name", ["index", "07_checkpoint"])
def test_a_notebook_run_again_is_the_same(project, name):
    shutil.copy(ROOT / "nbs" / f"{name}.ipynb", project.path / "nbs")
    project.run(name)
    project.commit()
    project.run(name)
    assert project.lines() == {}


def test_a_letter_without_a_font_is_noted():
    import matplotlib.pyplot as plt

    with warnings.catch_warnings():
        boxes = gather_boxes()
        for text in ("a", "\u0e01"):
            fig = plt.figure()
            fig.suptitle(text)
            fig.canvas.draw()
            plt.close(fig)
    assert len(set(boxes)) == 1 and "THAI" in boxes[0]


def skipped_flags(flags):
    "Cells marked cuda run where there is a GPU; slow ones where RUN_SLOW is set."
    import torch

    wanted = {"cuda": torch.cuda.is_available(), "slow": bool(os.environ.get("RUN_SLOW"))}
    return [flag for flag in flags if not wanted.get(flag)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "matplotlib.pyplot", "nbdev.test"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(path, there), daemon=False)
    process.start()
    there.close()
    try:
        if not here.poll(SECONDS):
            pytest.fail(f"{path.name}: no result in {SECONDS:g} s", pytrace=False)
        try: passed, errors = here.recv()
        except EOFError: pytest.fail(f"{path.name}: the process died", pytrace=False)
    finally:
        process.kill()
        process.join()
    if not passed: pytest.fail(errors, pytrace=False)
