"Each notebook is one test: run from top to bottom as `nbdev_test` runs it, in a process of its own that a time-out can end."
import multiprocessing
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
SECONDS = float(os.environ.get("NOTEBOOK_SECONDS", "240"))  # 100 on a quiet machine with one thread; this is a guard, not a measurement


def run(path, connection):
    import contextlib
    import io

    os.chdir(ROOT / "nbs")
    from nbdev.config import get_config
    from nbdev.test import test_nb

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        passed, _ = test_nb(path, skip_flags=skipped_flags(get_config().tst_flags.split()), basepath=ROOT)
    connection.send((passed, errors.getvalue()))


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
        if not here.poll(SECONDS): pytest.fail(f"{path.name}: no result in {SECONDS:g} s", pytrace=False)
        try: passed, errors = here.recv()
        except EOFError: pytest.fail(f"{path.name}: the process died", pytrace=False)
    finally:
        process.kill()
        process.join()
    if not passed: pytest.fail(errors, pytrace=False)
