"""What comes from outside: packages within bounds, workflows that may do little and run what is
pinned, and no secret where it could be read."""
import ast
import re
import shlex
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
SETTINGS = ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
LISTS = {name: [Requirement(each) for each in shlex.split(text)]
         for name, text in SETTINGS["DEFAULT"].items() if name.endswith("requirements")}
ALL = [(name, each) for name, some in LISTS.items() for each in some]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTION = re.compile(r"uses: ([\w.-]+/[\w.-]+)@(\S+)(.*)")


# ---- packages

def test_there_are_lists():
    assert {"requirements", "fast_requirements", "track_requirements",
            "dev_requirements"} == LISTS.keys()
    assert len(ALL) > 40 and all(not each.url for _, each in ALL)


@pytest.mark.parametrize("where, package", ALL, ids=str)
def test_a_package_has_a_least_and_a_first_version_not_taken(where, package):
    bounds = sorted(bound.operator for bound in package.specifier)
    assert bounds == ["<", ">="], f"{where}: {package}: give both bounds, name>=A,<B"


@pytest.mark.parametrize("where, package", ALL, ids=str)
def test_what_is_installed_is_within_the_bounds(where, package):
    "So what the tests ran with is what a user may get."
    try: here = version(package.name)
    except PackageNotFoundError:
        optional = where in ("fast_requirements", "track_requirements", "dev_requirements")
        assert optional, f"{package} is not installed: make install"
        return pytest.skip(f"{package.name} is not installed here")
    assert package.specifier.contains(here, prereleases=True), f"{package.name} {here}"


def imported(path):
    "The packages a module imports, wherever the import stands."
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import): names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level: names = [node.module]
        else: names = []
        yield from (name.partition(".")[0] for name in names)


def test_every_import_of_the_library_is_declared():
    "By name, or by a package that is declared and brings it."
    brought = {"pyarrow": "datasets", "filelock": "datasets", "llvmlite": "numba",
               "pydantic-core": "pydantic", "ipython": "ipykernel"}
    for package, parent in brought.items():
        names = {canonicalize_name(Requirement(each).name) for each in requires(parent)}
        assert package in names, f"{parent} does not bring {package} any more: declare it"
    declared = {canonicalize_name(each.name) for _, each in ALL} | brought.keys()
    known = packages_distributions()
    names = {name for path in (ROOT / "gpt_nb").glob("*.py") for name in imported(path)}
    names -= {"gpt_nb", *sys.stdlib_module_names}
    odd = [name for name in names
           if not {canonicalize_name(each) for each in known.get(name, [name])} & declared]
    assert len(names) > 15 and not odd, f"imported, but in no list of settings.ini: {odd}"


def test_what_make_installs_beside_them_has_bounds():
    make = (ROOT / "Makefile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in make.split("\n") if "pip install" in line]
    asked = [word for line in lines for word in re.findall(r"(?<=\s)'([a-z][\w-]+[^']*)'", line)]
    assert len(asked) == 3, asked
    for each in map(Requirement, asked):
        assert sorted(bound.operator for bound in each.specifier) == ["<", ">="], each
    for line in lines:
        known = r"--[\w-]+|'[^']*'|\$\(TORCH\)|https?://\S+|-e \.|\S*pip install|-m"
        bare = re.sub(known, "", line.partition("#")[0])
        words = set(re.findall(r"(?<!\S)[a-z][\w-]+(?!\S)", bare))
        assert not words, f"a package without bounds: {words}"


# ---- workflows

def read(path):
    told = yaml.safe_load(path.read_text("utf-8"))
    return told, told[True]    # YAML reads the word `on` as true


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_an_action_is_pinned_by_its_commit_with_the_version_beside_it(path):
    "A tag can be moved to other code, a commit cannot."
    used = ACTION.findall(path.read_text("utf-8"))
    told, _ = read(path)
    steps = [step for job in told["jobs"].values() for step in job["steps"]]
    assert len(used) == sum("uses" in step for step in steps) > 0
    for name, commit, after in used:
        assert re.fullmatch(r"[0-9a-f]{40}", commit), f"{name}@{commit}"
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", after), f"{name}: which version is that? {after}"


def test_one_action_has_one_commit():
    used = {(name, commit, after) for path in WORKFLOWS
            for name, commit, after in ACTION.findall(path.read_text("utf-8"))}
    assert len({name for name, *_ in used}) == len(used) == 5


MAY = {("docs", "publish"): dict(pages="write", **{"id-token": "write"})}   # all else reads


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_read_the_code_and_nothing_else(path):
    told, when = read(path)
    assert told["permissions"] == dict(contents="read")
    assert "pull_request_target" not in when and "workflow_run" not in when
    for name, job in told["jobs"].items():
        assert job.get("permissions") == MAY.get((path.stem, name)), f"{path.stem}: {name}"
        assert 0 < job["timeout-minutes"] <= 60
        if job.get("permissions"):       # and runs nothing of the repository
            assert not any("run" in step or "checkout" in step.get("uses", "")
                           for step in job["steps"])
        for step in job["steps"]:
            if "actions/checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False
        if "self-hosted" in job["runs-on"]:
            assert "pull_request" not in when, "a stranger's code on a machine of our own"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_secret_is_used_and_no_text_of_others_is_put_into_a_command(path):
    told, _ = read(path)
    text = path.read_text("utf-8")
    assert not re.search(r"secrets\b|GITHUB_TOKEN|github\.token|set -x|printenv|\benv\s*$", text)
    for job in told["jobs"].values():
        for step in job["steps"]: assert "${{" not in step.get("run", "")
    filled = set(re.findall(r"\$\{\{ *([\w.]+) *\}\}", text))
    assert filled <= {"github.ref", "matrix.os", "matrix.python",
                      "steps.deployment.outputs.page_url"}


def test_packages_are_looked_up_among_the_known_holes():
    told, when = read(ROOT / ".github" / "workflows" / "audit.yml")
    assert "schedule" in when and "settings.ini" in when["push"]["paths"]
    assert any(step.get("run") == "make audit" for step in told["jobs"]["packages"]["steps"])
    make = (ROOT / "Makefile").read_text("utf-8")
    recipe = re.search(r"^audit:.*\n((?:\t.*\n)+)", make, re.M)[1]
    assert "pip-audit --requirement" in recipe and "--strict" in recipe


def test_updates_are_proposed_for_actions_and_npm():
    told = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text("utf-8"))
    assert told["version"] == 2
    assert {each["package-ecosystem"] for each in told["updates"]} == {"github-actions", "npm"}
    for each in told["updates"]:
        folder = ROOT / each["directory"].strip("/")
        assert (folder / "package-lock.json").is_file() or each["directory"] == "/"


# ---- secrets

KEYS = re.compile(r"\bhf_[A-Za-z0-9]{30,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bsk-[A-Za-z0-9_-]{32,}"
                  r"|\bAKIA[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY|\bpypi-[A-Za-z0-9_-]{50,}")


def test_no_key_is_committed():
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if files.returncode: pytest.skip("not a git checkout: which files are committed is not known")
    found = []
    for name in filter(None, files.stdout.decode().split("\0")):
        path = ROOT / name
        if path.suffix in (".safetensors", ".png", ".otf") or not path.is_file(): continue
        if KEYS.search(path.read_text("utf-8", "replace")): found.append(name)
    assert not found


@pytest.mark.parametrize("key", ["hf_" + "a" * 34, "ghp_" + "b" * 36, "AKIA" + "C" * 16,
                                 "-----BEGIN " + "RSA PRIVATE KEY"])
def test_a_key_would_be_seen(key): assert KEYS.search(f"token = '{key}'")
