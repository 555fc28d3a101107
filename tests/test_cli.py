"The command line as a user types it: what it prints, where, and how it ends."
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt_nb.cli import fill_in_options, run_app

COMMAND = [sys.executable, "-c", "from gpt_nb.cli import main; main()"]


@pytest.fixture(autouse=True)
def own_folders(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))


def text_file(folder: Path) -> Path:
    path = folder / "lines.txt"
    lines = [f"{n} times {n + 1} makes {n * (n + 1)}\n\n" for n in range(2000)]
    path.write_text("".join(lines), "utf-8")
    return path


def train(**options) -> list[str]:
    "The words of a command: `train`, and each option with its value."
    words = [(f"--{name}", str(value)) for name, value in options.items()]
    return ["train", *(word for pair in words for word in pair)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A finished run on a small file."
    folder = tmp_path_factory.mktemp("cli")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.getbasetemp() / "cache")
    out = folder / "run"
    data = text_file(folder)
    command = train(data=data, tokenizer="char", depth=1, context=32, steps=12, out=out)
    assert run_app(command) == 0
    return out


def fails(capsys, *arguments) -> str:
    "The one line with which a command refuses its input."
    before = {p: p.stat().st_mtime_ns for p in Path().rglob("*")}
    assert run_app(list(map(str, arguments))) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("gpt-nb: ")]
    assert len(lines) == 1 and "Traceback" not in captured.err and captured.out == ""
    after = {p: p.stat().st_mtime_ns for p in Path().rglob("*")}
    assert before == after, "something was overwritten"
    return lines[0]


def test_help_is_quick_and_complete():
    start = time.perf_counter()
    shown = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(name in shown for name in ("train", "sample", "eval", "demo"))
    assert time.perf_counter() - start < 20
    code = ("import sys, gpt_nb.cli; "
            "print([m for m in ('torch', 'datasets', 'matplotlib') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_run_folder_holds_what_it_should(run):
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
             "generation_config.json", "training.json", "log.jsonl"}
    assert names <= {p.name for p in run.iterdir()}
    about = json.loads((run / "training.json").read_text())
    assert about["seed"] == 0 and about["val_loss"] > 0 and about["seconds"] > 0
    assert about["options"]["tokenizer"] == "char"


def test_sample_writes_the_prompt_and_text_on_stdout_only(run, capsys):
    command = ["sample", str(run), "--prompt", "3 times", "--tokens", "20", "--seed", "1"]
    write = lambda *more: run_app([*command, *more]) or capsys.readouterr()
    first, again, greedy = write(), write(), write("--temperature", "0")
    assert first.out == again.out and first.err == ""
    assert first.out.startswith("3 times") and len(first.out) > 10
    assert greedy.out.startswith("3 times")
    assert run_app(["sample", str(run), "--tokens", "0", "--prompt", "3"]) == 0
    assert capsys.readouterr().out == "3\n"


def test_export_for_others(run, tmp_path, capsys):
    for to in ("hf", "onnx"):
        if to == "onnx": pytest.importorskip("onnxscript")
        assert run_app(["export", str(run), "--to", to, "--out", f"out-{to}"]) == 0
        said = capsys.readouterr().out
        assert f"out-{to}" in said and said.count("\n") == 1
    from gpt_nb.model import GPT
    assert GPT.from_pretrained(tmp_path / "out-hf").config == GPT.from_pretrained(run).config
    assert "lines.txt" in (tmp_path / "out-hf/README.md").read_text()
    assert (tmp_path / "out-onnx/model.onnx").stat().st_size > 10_000
    assert "not an empty folder" in fails(capsys, "export", run, "--to", "hf", "--out", "out-hf")
    assert "hf, onnx or gguf" in fails(capsys, "export", run, "--to", "tflite", "--out", "new")
    assert "byte-level BPE" in fails(capsys, "export", run, "--to", "gguf", "--out", "new")
    assert "no run folder" in fails(capsys, "export", "nowhere", "--to", "hf", "--out", "new")


def test_eval_measures_other_text_too(run, tmp_path, capsys):
    assert run_app(["eval", str(run)]) == 0
    assert "validation part" in (own := capsys.readouterr().out) and "bits per byte" in own
    other = tmp_path / "other.txt"
    other.write_text("7 times 8 makes 56\n\n" * 30)
    assert run_app(["eval", str(run), "--data", str(other)]) == 0
    assert "loss" in capsys.readouterr().out


def test_eval_knows_its_own_data_by_any_name(tmp_path, capsys, monkeypatch):
    from gpt_nb.cli import same_text
    words, out = text_file(tmp_path), tmp_path / "words"
    monkeypatch.chdir(tmp_path)
    command = train(data=words.name, tokenizer="char", context=16, depth=1, steps=2, out=out)
    assert run_app(command) == 0
    capsys.readouterr()
    assert run_app(["eval", str(out), "--data", str(words)]) == 0
    assert "validation part" in capsys.readouterr().out
    assert same_text("tales", "tales:1") and same_text("tales+tales-zh", "tales-zh:1+tales")
    assert not same_text("tales", "tales:2") and not same_text("a.txt", "b.txt")
    assert "--data is empty" in fails(capsys, "eval", str(out), "--data", "")


def test_eval_is_not_deceived_by_a_file_of_the_same_name(tmp_path, capsys, monkeypatch):
    here, there = tmp_path / "A", tmp_path / "B"
    for folder in (here, there): folder.mkdir()
    words = text_file(here)
    monkeypatch.chdir(here)
    command = train(data=words.name, tokenizer="char", context=16, depth=1, steps=2, out="run")
    assert run_app(command) == 0
    monkeypatch.chdir(there)
    capsys.readouterr()
    assert "no file matches" in fails(capsys, "eval", "../A/run")
    text = words.read_text(encoding="utf-8")
    Path(words.name).write_text(text[: len(text) // 2], encoding="utf-8")
    assert run_app(["eval", "../A/run"]) == 0
    out, err = capsys.readouterr()
    assert "validation part" not in out and "is another" in err
    Path(words.name).write_text(text, encoding="utf-8")   # the same text, elsewhere
    assert run_app(["eval", "../A/run"]) == 0 and "validation part" in capsys.readouterr().out


def test_eval_refuses_a_text_of_unknown_words(tmp_path, capsys):
    words, out = text_file(tmp_path), tmp_path / "words"
    other, mixed = tmp_path / "other.txt", tmp_path / "mixed.txt"
    command = train(data=words, tokenizer="word", context=16, depth=1, steps=2, out=out)
    assert run_app(command) == 0
    capsys.readouterr()
    other.write_text("从前有一个国王。\n\n" * 30, encoding="utf-8")
    assert "of the words" in fails(capsys, "eval", str(out), "--data", str(other))
    one_zebra = words.read_text(encoding="utf-8").replace("\n\n", " zebra\n\n", 1)
    mixed.write_text(one_zebra, encoding="utf-8")
    assert run_app(["eval", str(out), "--data", str(mixed)]) == 0
    assert "hides their bytes" in capsys.readouterr().out


def test_config_file_instead_of_depth(run, tmp_path, capsys):
    out = tmp_path / "again"
    command = train(data=text_file(tmp_path), tokenizer=run, context=16, steps=2, out=out)
    assert run_app([*command, "--config", str(run / "config.json")]) == 0
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (out, run))
    assert ours["hidden_size"] == theirs["hidden_size"] and ours["max_position_embeddings"] == 16


def test_bad_input_is_one_line(run, tmp_path, capsys):
    Path("empty.txt").write_text("")
    Path("short.txt").write_text("a line\n\nanother\n")
    Path("binary.txt").write_bytes(bytes(range(256)))
    data = text_file(tmp_path)
    start = train(depth=1, steps=2, out="new", tokenizer="char")
    assert "empty" in fails(capsys, *start, "--data", "empty.txt")
    assert "UTF-8" in fails(capsys, *start, "--data", "binary.txt")
    assert "context" in fails(capsys, *start, "--data", "short.txt", "--context", 64)
    assert "no file" in fails(capsys, *start, "--data", "missing.txt")
    assert "tales" in fails(capsys, *start, "--data", "shakespeare")
    assert "device" in fails(capsys, *start, "--data", data, "--device", "abacus")
    assert "bpe:N" in fails(capsys, *start[:-1], "bpe:many", "--data", data)
    assert "exclude" in fails(capsys, *start, "--config", "config.json")
    no_time = train(minutes=0, out="new", data=data, tokenizer="char")
    assert "minutes" in fails(capsys, *no_time)
    deep = train(depth=900, steps=2, out="new", tokenizer="char", data=data)
    too_large = fails(capsys, *deep)
    assert "GB of memory" in too_large and "choose a smaller --depth" in too_large
    assert not Path("new").exists()
    again = train(data=data, tokenizer="char", depth=1, steps=2, out=run)
    assert "resume" in fails(capsys, *again)
    deeper = ["train", "--resume", "--depth", 3, "--out", run]
    assert "--depth was 1 and is 3" in fails(capsys, *deeper)
    assert "no run" in fails(capsys, "train", "--resume", "--out", "nothing")
    assert "top_p" in fails(capsys, "sample", run, "--top-p", 1.5)
    assert "temperature" in fails(capsys, "sample", run, "--temperature", -1)
    assert "context" in fails(capsys, "sample", run, "--prompt", "7 " * 40)
    assert "character" in fails(capsys, "sample", run, "--prompt", "é")
    assert "No such option" in fails(capsys, "sample", run, "--topk", 3)
    assert "no run folder" in fails(capsys, "sample", "nowhere")
    assert "empty" in fails(capsys, "train", "--data", "")
    Path("mine").mkdir()
    Path("mine/log.jsonl").write_text("precious")
    mine = train(depth=1, steps=2, data=data, out="mine", tokenizer="char")
    assert "not empty" in fails(capsys, *mine)
    assert "not a built-in world" in fails(capsys, "demo", "--out", run)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json",
                                  "training.json"])
@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_damaged_run_folder(run, tmp_path, capsys, name, damage):
    for path in run.iterdir():
        if path.is_file(): (tmp_path / path.name).write_bytes(path.read_bytes())
    if damage == "missing": (tmp_path / name).unlink()
    else: (tmp_path / name).write_bytes((run / name).read_bytes()[:40])
    assert name in fails(capsys, "sample", tmp_path)


def test_ctrl_c_saves_and_resume_equals_an_uninterrupted_run(tmp_path):
    options = dict(data=text_file(tmp_path), tokenizer="char", depth=1, context=32, steps=150)
    started = lambda out: [*COMMAND, *train(**options, out=out)]
    run_it = lambda command: subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run_it(started(tmp_path / "whole")).returncode == 0
    process = subprocess.Popen(started(tmp_path / "broken"), text=True, stderr=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    while process.poll() is None and not (tmp_path / "broken" / "state").exists(): time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    go_on = f"Go on with: gpt-nb train --out {tmp_path / 'broken'} --resume"
    assert process.returncode == 130 and "Traceback" not in errors and go_on in errors
    about = json.loads((tmp_path / "broken" / "training.json").read_text())
    assert not about["finished"]
    resumed = [*COMMAND, "train", "--out", str(tmp_path / "broken"), "--resume"]
    assert run_it(resumed).returncode == 0
    files = [tmp_path / name / "model.safetensors" for name in ("whole", "broken")]
    weights = [file.read_bytes() for file in files]
    assert weights[0] == weights[1]


def test_demo_tells_how_far_it_is_from_the_best(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("gpt_nb.data.load_texts.__defaults__", (None, None, 400, 0))
    out = tmp_path / "demo"
    assert run_app(["demo", "--minutes", "0.05", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "no model can do better than" in shown and "Once" in shown
    assert f"gpt-nb sample {out}" in shown and (out / "run.png").exists()
    assert run_app(["demo", "--out", str(out)]) == 0
    assert "showing that one" in capsys.readouterr().err


def test_unknown_words_are_said_to_hide_the_bytes(run, tmp_path, capsys):
    lines = tmp_path / "words.txt"
    stories = [f"the {'cat' if n % 2 else 'dog'} sat on mat {n}\n\n" for n in range(300)]
    lines.write_text("".join(stories))
    folder = str(tmp_path / "run")
    command = train(data=lines, tokenizer="word", depth=1, context=16, steps=2, out=folder)
    assert run_app(command) == 0
    lines.write_text("a zebra sat on the mat 7\n\n" * 40)
    assert run_app(["eval", folder, "--data", str(lines)]) == 0
    assert "hide" in capsys.readouterr().out


def test_text_that_is_hard_to_count_ends_well(tmp_path, capsys):
    lines = "".join(f"line {n} of plain text\n\n" for n in range(60))
    texts = dict(accents=lines + "caf\u00e9 \u2013 " * 30, tiny="a\n\nb\n\nc\n",
                 nul=lines + "\0" * 50 + "\n")
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
        data = f"{name}.txt"
        command = train(data=data, tokenizer="bpe:300", depth=1, context=1, steps=1, out=name)
        assert run_app(command) == 0, name
        assert f"{name} holds the run" in capsys.readouterr().out


def test_a_file_called_tales_is_text():
    options = dict(data="tales_book.txt", steps=None, minutes=None, config=None, device=None)
    assert fill_in_options(options)["tokenizer"] == "bpe:2048"
    assert fill_in_options(options | dict(data="tales+pydocs"))["depth"] == 4
    assert fill_in_options(options | dict(data="tales+tales-zh:2"))["tokenizer"] == "word"


def test_resume_takes_the_device_it_was_started_with(tmp_path, capsys):
    start = train(data=text_file(tmp_path), tokenizer="char", depth=1, context=32, steps=2,
                  device="cpu", out="my run")
    assert run_app(start) == 0 and run_app(["train", "--out", "my run", "--resume"]) == 0
    assert "gpt-nb sample 'my run'" in capsys.readouterr().out


def test_stopped_before_the_first_state_begins_again(tmp_path):
    start = train(data=text_file(tmp_path), tokenizer="char", depth=1, context=32, steps=2,
                  out="run")
    assert run_app(start) == 0
    about = json.loads(Path("run/training.json").read_text())
    for path in list(Path("run").iterdir()):
        if path.name in ("training.json", "log.jsonl"): continue
        if path.is_dir(): shutil.rmtree(path)
        else: path.unlink()
    Path("run/training.json").write_text(json.dumps(about | dict(steps=0, finished=False)))
    assert run_app(["train", "--out", "run", "--resume"]) == 0
    assert json.loads(Path("run/training.json").read_text())["finished"]


@pytest.mark.parametrize("damage", [
    dict(data=None),
    dict(tokenizer=3),
    dict(batch_size="8"),
    dict(seed=[1]),
    dict(depth=True),
    dict(config=5),
    dict(lr=None),
])
def test_damaged_options_are_named(tmp_path, capsys, damage):
    start = train(data=text_file(tmp_path), tokenizer="char", depth=1, context=32, steps=2,
                  out="run")
    assert run_app(start) == 0 and capsys.readouterr()
    path = Path("run/training.json")
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | dict(options=about["options"] | damage)))
    assert next(iter(damage)) in fails(capsys, "train", "--resume", "--out", "run")


def test_closed_streams(run):
    command = f'{sys.executable} -c "from gpt_nb.cli import main; main()" sample {run} --tokens 5'
    options = dict(shell=True, capture_output=True, text=True)
    shell = lambda tail: subprocess.run(f"{command} {tail}", **options)
    assert shell(">&-").returncode == 0 and "Traceback" not in shell(">&- 2>&1").stderr
    assert "Traceback" not in shell("| head -c 1").stderr
