"""Tests run offline and, since several run at once, with one thread each.

Without npm or a browser the tests of the site are skipped and the last line says so; where
REQUIRE_BROWSER=1 is set, that is an error."""
import fcntl
import os
import signal
import subprocess
from pathlib import Path

import pytest
from browser import REQUIRED, missing, started

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"): os.environ.setdefault(name, "1")
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
os.environ |= {"TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "agg"}

# begun with & or nohup, a program hears no Ctrl-C or hang-up; the programs under test must
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN: signal.signal(number, usual)


@pytest.fixture(autouse=True)
def the_same_signals():
    "A test that ends the program on purpose may leave it deaf to Ctrl-C: the next one must not be."
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items(): signal.signal(number, handler)


def pytest_sessionstart(session):
    if REQUIRED and missing(): raise pytest.UsageError(f"REQUIRE_BROWSER, but {missing()}")


def pytest_unconfigure(config):
    "The last line of all, after the list of what was skipped."
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", ()) if reporter else ()
    if missing() and any("test_site.py" in report.nodeid for report in skipped):
        reporter.write_line(f"The site was not tested: {missing()}.")


@pytest.fixture(scope="module")
def small():
    "A tokenizer, tokens and an untrained model on a mixed text with emoji and Chinese."
    import torch

    from gpt_nb.data import tokenize
    from gpt_nb.model import GPT, GPTConfig
    from gpt_nb.tales import Tales
    from gpt_nb.tokenizer import BPETokenizer

    texts = [f"{t} 今天天气很好 🙂" for t in Tales().texts(60)]
    tok = BPETokenizer.train(texts, vocab_size=320)
    torch.manual_seed(0)
    model = GPT(GPTConfig("qwen3", tok.vocab_size, 300, 1, 2, 32)).eval()
    return tok, tokenize(texts, tok, progress=False), model


@pytest.fixture(scope="module")
def browser():
    "A browser for the tests of a file."
    with started() as found: yield found


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    "The script that checks a page for those who cannot see or cannot use a mouse."
    docs = Path(__file__).parent.parent / "docs"
    file, base = docs / "node_modules" / "axe-core" / "axe.min.js", tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    with open(shared / "site.lock", "w") as lock:   # test_site.py, which builds there, takes it too
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.is_file():
            if missing(): pytest.skip(missing())
            install = ["npm", "ci", "--no-audit", "--no-fund", "--silent"]
            subprocess.run(install, cwd=docs, check=True)
    return file.read_text("utf-8")
