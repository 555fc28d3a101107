"""Tests run offline and, since several run at once, with one thread each.

Without npm or a browser the tests of the site are skipped and the last line says so; where
REQUIRE_BROWSER=1 is set, that is an error."""
import os

import pytest
from browser import REQUIRED, missing

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"): os.environ.setdefault(name, "1")
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
os.environ |= {"TOKENIZERS_PARALLELISM": "false", "MPLBACKEND": "agg"}


def pytest_sessionstart(session):
    if REQUIRED and missing(): raise pytest.UsageError(f"REQUIRE_BROWSER, but {missing()}")


def pytest_unconfigure(config):
    "The last line of all, after the list of what was skipped."
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", ()) if reporter else ()
    if missing() and any("test_site.py" in report.nodeid for report in skipped):
        reporter.write_line(f"The site was not tested: {missing()}.")
