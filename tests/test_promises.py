"""The page "What we promise, and how it is tested": every test that it names exists, every test
that may be skipped stands on it with its reason; and promises that no other file holds."""
import ast
import json
import re
import socket
from pathlib import Path

import pytest
import skips

from gpt_nb.cli import run_app

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "nbs" / "promises.ipynb"
NAMED = re.compile(r"\[`(test_\w+\.py)::(test_\w+)`\]\(\.\./tests/(test_\w+\.py)\)")


def prose():
    "The page's own words."
    cells = json.loads(PAGE.read_text("utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def shown():
    "What its cells show."
    cells = json.loads(PAGE.read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return "".join("".join(output.get("data", {}).get("text/markdown", "")) for output in outputs)


# ---- the page

def test_each_test_that_is_named_exists():
    named = NAMED.findall(prose())
    assert len(named) > 60 and all(file == link for file, _, link in named)
    for file, test, _ in named:
        path = ROOT / "tests" / file
        assert path.is_file(), f"the page names {file}, which is not there"
        there = test in skips.functions_of(path)
        assert there, f"the page names {file}::{test}, which is not there"


def test_each_promise_names_its_test():
    "What is promised begins a line in bold; what was never run stands below, under its heading."
    promised = prose().partition("## What was never run")[0]
    lines = [line for line in promised.splitlines() if line.startswith("- **")]
    bare = [line for line in lines if not NAMED.search(line)]
    assert len(lines) > 40 and not bare, bare


def test_no_test_is_named_twice_for_one_promise():
    for line in prose().splitlines():
        named = NAMED.findall(line)
        assert len(named) == len(set(named)), line


# ---- the register of what is skipped

def test_each_skip_has_a_reason():
    mute = [f"{skip.file}: {', '.join(skip.tests)}" for skip in skips.listed() if not skip.why]
    assert not mute, f"say why, reason=..., so that it stands in nbs/promises.ipynb: {mute}"


def test_each_skip_stands_on_the_page():
    text = shown()
    for why, some in skips.by_reason(skips.listed()).items():
        said = f"run tools/execute.py nbs/promises.ipynb: it does not show {why!r}"
        assert why in text, said
        assert skips.in_short(some) in text, f"{said} for {skips.in_short(some)}"


SAMPLE = '''
import pytest
torch = pytest.importorskip("torch.nn")
gpu = pytest.mark.skipif(True, reason="no GPU")
mute = pytest.mark.skipif(True)

@pytest.fixture
def server():
    pytest.skip(f"port {1} is taken")

@pytest.fixture
def client(server): return server

@gpu
def test_a(): pass

def test_b(client): pass

@pytest.mark.parametrize("n", [1, pytest.param(2, marks=mute)])
def test_c(n): pass

def test_d():
    if n: pytest.skip("one is enough")
'''


def test_skips_are_found_wherever_they_stand(tmp_path):
    path = tmp_path / "test_sample.py"
    path.write_text(SAMPLE)
    found = {skip.why: skip.tests for skip in skips.of_file(path)}
    assert found == {"torch is not installed": ("test_a", "test_b", "test_c", "test_d"),
                     "no GPU": ("test_a",), "": ("test_c",), "port … is taken": ("test_b",),
                     "one is enough": ("test_d",)}


def test_a_cell_that_no_test_runs_has_a_reason(tmp_path):
    cells = [dict(id="x", source=["#| eval: false\n", "1"]), dict(id="y", source=["#| cuda"]),
             dict(id="02-079", source="#|eval: false"), dict(id="z", source=["1"])]
    path = tmp_path / "page.ipynb"
    path.write_text(json.dumps(dict(cells=cells)))
    found = [(skip.tests, bool(skip.why)) for skip in skips.cells(path)]
    assert found == [(("cell x",), False), (("cell y",), False), (("cell 02-079",), True)]


# ---- promises that no other file holds

class Asked(Exception): pass


def test_training_and_writing_ask_no_network(tmp_path, monkeypatch, capsys):
    "Whoever opens a connection, or asks for a machine's address, is found out."
    def refuse(*asked, **how): raise Asked(f"the network was asked: {asked}")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(Asked): socket.create_connection(("127.0.0.1", 9))
    Path("lines.txt").write_text("".join(f"{i} and {i} is {2 * i}\n\n" for i in range(900)))
    small = ["--steps", "2", "--depth", "1", "--context", "32", "--tokenizer", "char"]
    for words in (["train", "--data", "lines.txt", "--out", "run", *small],
                  ["sample", "run", "--tokens", "5"], ["eval", "run"],
                  ["sample", "tales-short", "--tokens", "5"],
                  ["export", "run", "--to", "hf", "--out", "out"]):
        assert run_app(words) == 0, capsys.readouterr().err


FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "np.load", "numpy.load",
    "marshal.loads", "joblib.load", "dill.load", "cloudpickle.load", "os.system", "os.popen",
    "eval", "exec", "compile", "__import__", "importlib.import_module", "yaml.load"}


PICKLES = {"pickle", "marshal", "dill", "cloudpickle", "joblib", "shelve"}


def modules_in(path):
    "The modules that a module imports."
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import): yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom): yield node.module or ""


def calls_in(path):
    "Each call in a module: what is called, and the call."
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call): yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", sorted((ROOT / "gpt_nb").glob("*.py")), ids=lambda path: path.stem)
def test_the_library_opens_no_pickle_runs_no_code_and_starts_no_shell(path):
    assert not PICKLES & {name.partition(".")[0] for name in modules_in(path)}
    for name, call in calls_in(path):
        words = {each.arg: ast.unparse(each.value) for each in call.keywords}
        assert name not in FORBIDDEN, f"{path.name}:{call.lineno} calls {name}"
        assert words.get("shell", "False") == "False", f"{path.name}:{call.lineno}: a shell"
        assert words.get("trust_remote_code", "False") == "False", f"{path.name}:{call.lineno}"
        assert words.get("allow_pickle", "False") == "False", f"{path.name}:{call.lineno}"


def test_such_a_call_would_be_seen(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("import torch, pickle\ndef f(x): return torch.load(x), model.eval()\n")
    assert PICKLES & set(modules_in(path)) == {"pickle"}
    assert {name for name, _ in calls_in(path)} & FORBIDDEN == {"torch.load"}


def test_a_security_policy_says_how_to_report():
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    assert "Report a vulnerability" in text and "nbs/promises.ipynb" in text
    assert (ROOT / "nbs" / "promises.ipynb").is_file()
