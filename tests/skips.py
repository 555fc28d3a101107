"""Every test that may be skipped, with its reason, read from the tests themselves.

nbs/promises.ipynb shows the list; test_promises.py holds that no reason is missing."""
import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
MARKS = ("skip", "skipif", "xfail")
CALLS = {f"pytest.mark.{name}" for name in MARKS} | {"pytest.skip", "pytest.xfail",
                                                     "pytest.importorskip"}
WORKED_OUT = {   # reasons that a function gives when the tests run, in words
    "missing()": "no npm or no browser on the machine",
    "missing() or '-'": "no npm or no browser on the machine",
    "f\"without {', '.join(WITHOUT)}\"": "no JupyterLab or no browser on the machine"}
CELLS = {   # cells of notebooks that no test runs
    "02-079": "reads a data set of the Hub", "03-3988": "fetches a text from the network",
    "06-59c": "takes long: `results/block.json` holds what it measured",
    "06-59g": "takes long: `results/block.json` holds what it measured",
    "06-63a": "takes long: `results/block.json` holds what it measured",
    "07-073": "opens a tokenizer of the Hub", "14-058": "opens models of the Hub, 2 GB"}


class Skip(NamedTuple):
    file: str
    tests: tuple[str, ...]   # that may be skipped
    why: str                 # empty: no reason is given


def listed() -> list[Skip]:
    "Those of the tests, then those of the notebooks."
    tests = [skip for path in sorted((ROOT / "tests").glob("*.py")) for skip in of_file(path)]
    return tests + [skip for path in sorted((ROOT / "nbs").glob("*.ipynb")) for skip in cells(path)]


def of_file(path: Path) -> Iterator[Skip]:
    "Each place in a file where tests may be skipped, and which."
    functions = functions_of(path)
    tests = tuple(name for name in functions if name.startswith("test_"))
    for node in ast.parse(path.read_text("utf-8")).body:
        for call in skips_in(node):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield from users(path, node.name, reason(call))
            elif isinstance(node, ast.Assign) and not whole_file(node):
                mark = ast.unparse(node.targets[0])
                yield Skip(path.name, using(functions, mark), reason(call))
            else: yield Skip(path.name, tests, reason(call))


@cache
def functions_of(path: Path) -> dict[str, str]:
    "The functions of a file by their names, with what stands above them."
    body = ast.parse(path.read_text("utf-8")).body
    return {node.name: ast.unparse(node) for node in body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def whole_file(node: ast.Assign) -> bool:
    "Whether a mark is that of all tests of a file, or a module that all of them need."
    return ast.unparse(node.targets[0]) == "pytestmark" or "importorskip" in ast.unparse(node.value)


def using(functions: dict[str, str], name: str) -> tuple[str, ...]:
    "The tests in which a name stands, or a function in which it stands, and so on."
    found, new = set(), {name}
    while new:
        some = "|".join(map(re.escape, new))
        new = {other for other, text in functions.items()
               if other not in found and re.search(rf"\b(?:{some})\b", text)}
        found |= new
    return tuple(name for name in functions if name in found and name.startswith("test_"))


def users(path: Path, name: str, why: str) -> Iterator[Skip]:
    "A test that skips itself; or those that use a fixture which does, anywhere if all may use it."
    if name.startswith("test_"): yield Skip(path.name, (name,), why)
    else:
        everywhere = sorted((ROOT / "tests").glob("test_*.py"))
        for file in everywhere if path.name == "conftest.py" else [path]:
            if names := using(functions_of(file), name): yield Skip(file.name, names, why)


def skips_in(node: ast.AST) -> list[ast.Call]:
    "The calls in a piece of code that skip."
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
    return [call for call in calls if ast.unparse(call.func) in CALLS]


def reason(call: ast.Call) -> str:
    "Why, as the call says it; of a module that cannot be imported, that it is not there."
    said = {each.arg: each.value for each in call.keywords}.get("reason")
    kind, first = ast.unparse(call.func), call.args[0] if call.args else None
    if said is None and kind in ("pytest.skip", "pytest.xfail"): said = first
    if said is None and kind == "pytest.importorskip":
        return f"{ast.literal_eval(first).partition('.')[0]} is not installed"
    return in_words(said)


def in_words(said: ast.expr | None) -> str:
    "A text; what is filled in when the tests run is left out."
    if said is None: return ""
    if isinstance(said, ast.Constant): return str(said.value).strip()
    if ast.unparse(said) in WORKED_OUT: return WORKED_OUT[ast.unparse(said)]
    if isinstance(said, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…"
                       for part in said.values)
    return ""


def cells(path: Path) -> Iterator[Skip]:
    "The cells of a notebook that no test runs."
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if re.match(r"#\s*\|\s*(eval:\s*false|cuda|slow)\b", "".join(cell["source"])):
            yield Skip(path.name, (f"cell {cell['id']}",), CELLS.get(cell["id"], ""))


def by_reason(skips: list[Skip]) -> dict[str, list[Skip]]:
    "The skips of each reason, the reason of most tests first."
    reasons = {}
    for skip in skips: reasons.setdefault(skip.why, []).append(skip)
    return dict(sorted(reasons.items(), key=lambda each: -sum(len(s.tests) for s in each[1])))


def in_short(skips: list[Skip]) -> str:
    "Which tests, file by file, as Markdown; of many only how many."
    files = {}
    for skip in skips: files.setdefault(skip.file, {}).update(dict.fromkeys(skip.tests))
    said = []
    for file, names in files.items():
        some = ", ".join(f"`{name}`" for name in names)
        said.append(f"{file}: {some if len(names) <= 4 else f'{len(names)} tests'}")
    return "; ".join(said)
