"""Where the curves of a run go, and what must never go anywhere: texts, names of files, tokens."""
import json
import sys
import types
from pathlib import Path

import pytest

from gpt_nb.cli import run_app

SECRETS = dict(HF_TOKEN="hf_" + "q" * 34, WANDB_API_KEY="0123456789" * 4,
               HUGGING_FACE_HUB_TOKEN="hf_" + "w" * 34)
TRAIN = ["train", "--data", "secret-name.txt", "--steps", "4", "--depth", "1", "--context", "32",
         "--tokenizer", "char", "--out", "run", "--eval-every", "2"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, value in SECRETS.items(): monkeypatch.setenv(name, value)
    lines = "".join(f"{i} and {i} is {2 * i}\n\n" for i in range(900))
    Path("secret-name.txt").write_text(lines)


class Followed:
    "What a run of Weights & Biases is to its caller; it keeps what it is told."
    offline, url = False, "https://wandb.example/run"
    settings = types.SimpleNamespace(sync_dir="wandb/offline-run-1")

    def __init__(self, **begun): self.begun, self.rows, self.ended = begun, [], None
    def __enter__(self): return self
    def __exit__(self, kind, *more): self.ended = kind or "well"
    def log(self, row, step): self.rows.append((step, row))


@pytest.fixture
def wandb(monkeypatch):
    "A small module in the place of theirs."
    fake = types.ModuleType("wandb")
    fake.runs, fake.Error = [], type("Error", (Exception,), {})
    fake.Settings = lambda **settings: settings

    def init(**begun):
        fake.runs.append(Followed(**begun))
        return fake.runs[-1]
    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def said(capsys): return capsys.readouterr().err


def test_the_log_is_what_is_sent(wandb, capsys):
    assert run_app([*TRAIN, "--track", "wandb"]) == 0
    [run] = wandb.runs
    log = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    bare = [{key: value for key, value in row.items() if value is not None} for row in log]
    assert run.rows == [(row["step"], row) for row in bare] and len(log) >= 3
    assert run.ended == "well" and "Weights & Biases: https://wandb.example/run" in said(capsys)
    assert run.begun["name"] == run.begun["group"] == "run"
    assert run.begun["config"]["steps"] == 4 and run.begun["config"]["shape"]["n_layer"] == 1
    assert (Path("run") / "tensorboard").is_dir()
    assert "track" not in json.loads(Path("run/training.json").read_text())["options"]


def test_neither_texts_nor_names_of_files_nor_tokens_are_sent(wandb):
    assert run_app([*TRAIN, "--track", "wandb"]) == 0
    [run] = wandb.runs
    sent = json.dumps([run.begun, run.rows])
    for word in ("secret-name", str(Path.cwd()), *SECRETS.values()): assert word not in sent
    how = run.begun["settings"]
    assert how["disable_git"] and how["disable_code"] and how["console"] == "off"
    assert how["x_disable_meta"] and how["x_disable_stats"] and not how["x_save_requirements"]


def test_a_resumed_run_is_a_new_one_of_the_same_group(wandb):
    assert run_app([*TRAIN, "--track", "wandb"]) == 0
    longer = ["train", "--out", "run", "--resume", "--steps", "8", "--track", "wandb"]
    assert run_app(longer) == 0
    first, second = wandb.runs
    assert first.begun["group"] == second.begun["group"] == "run"
    assert [step for step, _ in second.rows][0] > [step for step, _ in first.rows][-1]


def test_a_run_that_fails_is_ended_there_too(wandb, monkeypatch):
    def breaks(self, row, step): raise KeyboardInterrupt
    monkeypatch.setattr(Followed, "log", breaks)
    assert run_app([*TRAIN, "--track", "wandb"]) == 130
    assert wandb.runs[0].ended is not None and wandb.runs[0].ended != "well"


def test_what_it_refuses_is_one_line(wandb, capsys):
    def init(**begun): raise wandb.Error("no API key\nconfigured")
    wandb.init = init
    assert run_app([*TRAIN, "--track", "wandb"]) == 2
    assert said(capsys).splitlines()[-1].startswith("gpt-nb: --track wandb: no API key configured")


def test_of_several_processes_the_first_one_speaks(wandb, monkeypatch):
    from gpt_nb.cli import tracking

    monkeypatch.setenv("RANK", "1")
    with tracking("wandb", Path("run"), None, None) as watch: assert watch is None
    assert not wandb.runs


@pytest.mark.parametrize("more, part", [
    (["--track", "wandb"], "pip install 'gpt_nb[track]'"),
    (["--track", "mlflow"], "expected wandb"), (["--track", ""], "expected wandb")])
def test_what_is_not_there_is_said_before_anything_is_read(more, part, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)     # to import it is an ImportError
    assert run_app(["train", "--data", "there is no such text", *more]) == 2
    [line] = said(capsys).splitlines()
    assert part in line


def test_a_search_is_not_followed(wandb, capsys):
    assert run_app([*TRAIN, "--track", "wandb", "--tune", "2"]) == 2
    assert "leave out --tune" in said(capsys)


def held_in(folder):
    "Which secrets stand in which file."
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [(str(path), name) for path in files for name, secret in SECRETS.items()
            if secret.encode() in path.read_bytes()]


def test_no_token_is_left_in_a_run_an_export_or_a_cache(tmp_path, capsys):
    "The environment holds three; a run folder, a card and a cache are what people share."
    assert run_app(TRAIN) == 0
    assert run_app(["export", "run", "--to", "hf", "--out", "out"]) == 0
    assert (tmp_path / "out" / "README.md").is_file() and not held_in(tmp_path)
    printed = "".join(capsys.readouterr())
    assert not [name for name, secret in SECRETS.items() if secret in printed]


def test_the_package_itself_offline(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'gpt_nb[track]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert run_app([*TRAIN, "--track", "wandb"]) == 0
    assert "Weights & Biases: " in said(capsys)
    [kept] = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    data = kept.read_bytes()
    assert b"val_loss" in data and b"n_layer" in data and b"secret-name" not in data
    assert str(tmp_path).encode() not in data and not held_in(tmp_path)
