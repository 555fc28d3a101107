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

from gpt_nb.cli import (Budget, choose_depth, choose_tokenizer, measure_text, rows_of_world,
                        run_app, why_no_race)

COMMAND = [sys.executable, "-c", "from gpt_nb.cli import main; main()"]


@pytest.fixture(autouse=True)
def own_folders(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def text_file(folder: Path, n: int = 2000) -> Path:
    path = folder / "lines.txt"
    lines = [f"{i} times {i + 1} makes {i * (i + 1)}\n\n" for i in range(n)]
    path.write_text("".join(lines), "utf-8")
    return path


def train(**options) -> list[str]:
    "The words of a command: `train`, and each option with its value."
    words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options.items()]
    return ["train", *(word for pair in words for word in pair)]


def small(data: Path, **options) -> list[str]:
    "A run that takes no time."
    return train(**dict(data=data, tokenizer="char", depth=1, context=32, steps=4) | options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A finished run on a small file."
    folder = tmp_path_factory.mktemp("cli")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.getbasetemp() / "cache")
    out = folder / "run"
    assert run_app(small(text_file(folder), steps=12, out=out)) == 0
    return out


@pytest.fixture(scope="module")
def plain(run, tmp_path_factory):
    "What `export` makes of it: a folder without the record of a run."
    out = tmp_path_factory.mktemp("plain") / "model"
    assert run_app(["export", str(run), "--to", "hf", "--out", str(out)]) == 0
    return out


def about(folder) -> dict: return json.loads((Path(folder) / "training.json").read_text())


def fails(capsys, *arguments) -> str:
    "The one line with which a command refuses its input."
    capsys.readouterr()
    before = {p: p.is_file() and p.stat().st_mtime_ns for p in Path().rglob("*")}
    assert run_app(list(map(str, arguments))) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("gpt-nb: ")]
    assert len(lines) == 1 and "Traceback" not in captured.err and captured.out == ""
    after = {p: p.is_file() and p.stat().st_mtime_ns for p in Path().rglob("*")}
    assert before == after, "something was overwritten"
    return lines[0]


def test_help_is_quick_and_complete():
    start = time.perf_counter()
    shown = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(name in shown for name in ("train", "sample", "eval", "compare", "demo"))
    assert time.perf_counter() - start < 20
    code = ("import sys, gpt_nb.cli; "
            "print([m for m in ('torch', 'datasets', 'matplotlib') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_of_train_is_in_groups_and_fits_the_terminal(capsys):
    assert run_app(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    order = ["  --data", "  --minutes", "  --from", "Which text:", "  --encoding", "Which model:",
             "  --depth", "How it learns", "  --lr", "  --settings"]
    places = [shown.index(f"\n{word}") for word in order]
    assert places == sorted(places)


def test_run_folder_holds_what_it_should(run):
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
             "generation_config.json", "training.json", "log.jsonl", "run.png"}
    assert names <= {p.name for p in run.iterdir()}
    record = about(run)
    assert record["seed"] == 0 and record["val_loss"] > 0 and record["seconds"] > 0
    assert record["options"]["tokenizer"] == "char" and record["options"]["batch_size"] == 32


def test_sample_writes_the_prompt_and_text_on_stdout_only(run, capsys):
    command = ["sample", str(run), "--prompt", "3 times", "--tokens", "20", "--seed", "1"]
    write = lambda *more: run_app([*command, *more]) or capsys.readouterr()
    first, again, greedy = write(), write(), write("--temperature", "0")
    assert first.out == again.out and first.err == ""
    assert first.out.startswith("3 times") and len(first.out) > 10
    assert greedy.out.startswith("3 times")
    assert run_app(["sample", str(run), "--tokens", "0", "--prompt", "3"]) == 0
    assert capsys.readouterr().out == "3\n"


def test_many_prompts_are_lines_of_json_in_order(run, capsys, monkeypatch):
    prompts = ["3 times", "", " 4", "3 times"] + [str(n) for n in range(40)]
    Path("prompts.txt").write_text("\n".join(prompts) + "\n")
    command = ["sample", str(run), "--prompts", "prompts.txt", "--tokens", "6", "--seed", "1"]
    assert run_app(command) == 0
    first = capsys.readouterr()
    rows = [json.loads(line) for line in first.out.splitlines()]
    assert [row["prompt"] for row in rows] == prompts and first.err == ""
    assert all(set(row) == {"prompt", "text"} for row in rows)
    assert run_app(command) == 0 and capsys.readouterr().out == first.out
    import io
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(prompts) + "\n"))
    command[3] = "-"
    assert run_app(command) == 0 and capsys.readouterr().out == first.out


def test_stop_ends_the_text_and_is_left_out(run, capsys):
    command = ["sample", str(run), "--prompt", "3 times", "--tokens", "60", "--temperature", "0"]
    assert run_app(command) == 0
    whole = capsys.readouterr().out.removesuffix("\n")
    new = whole.removeprefix("3 times")
    stop = new[4:6]
    assert run_app([*command, "--stop", "unheard", "--stop", stop]) == 0
    assert capsys.readouterr().out == "3 times" + new[:new.index(stop)] + "\n"


def test_sample_and_eval_take_any_folder_that_opens(run, plain, tmp_path, capsys):
    for model in (run, plain):
        command = ["sample", str(model), "--prompt", "3 t", "--tokens", "9", "--seed", "1"]
        assert run_app(command) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) >= 2 and shown[:len(shown) // 2] == shown[len(shown) // 2:]
    data = str(text_file(tmp_path, 50))
    assert run_app(["eval", str(plain), "--data", data]) == 0
    assert "bits per byte" in capsys.readouterr().out
    assert run_app(["sample", "tales-en", "--tokens", "5", "--seed", "0"]) == 0


def test_eval_of_a_part(run, capsys):
    counts = []
    for limit in (["--limit", "500"], []):
        assert run_app(["eval", str(run), *limit]) == 0
        first = capsys.readouterr().out.splitlines()[0]
        counts.append(int(first.split(": ")[1].split()[0].replace(",", "")))
    assert 400 <= counts[0] <= 600 < counts[1]


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
    assert run_app(small(words.name, context=16, steps=2, out=out)) == 0
    capsys.readouterr()
    assert run_app(["eval", str(out), "--data", str(words)]) == 0
    assert "validation part" in capsys.readouterr().out
    assert same_text("tales", "tales:1") and same_text("tales+tales-zh", "tales-zh:1+tales")
    assert not same_text("tales", "tales:2") and not same_text("a.txt", "b.txt")
    assert not same_text("a.txt", "a.txt@2") and same_text("b.txt@2+a.txt", "a.txt+b.txt@2.0")


def test_eval_is_not_deceived_by_a_file_of_the_same_name(tmp_path, capsys, monkeypatch):
    here, there = tmp_path / "A", tmp_path / "B"
    for folder in (here, there): folder.mkdir()
    words = text_file(here)
    monkeypatch.chdir(here)
    assert run_app(small(words.name, context=16, steps=2, out="run")) == 0
    monkeypatch.chdir(there)
    capsys.readouterr()
    said = fails(capsys, "eval", "../A/run")   # its record means another file here
    assert "nobody on this machine has" in said and f"--data {words.name}" in said
    text = words.read_text(encoding="utf-8")
    Path(words.name).write_text(text[: len(text) // 2], encoding="utf-8")
    assert run_app(["eval", "../A/run", "--data", words.name]) == 0
    out, err = capsys.readouterr()
    assert "validation part" not in out and "is another" in err
    Path(words.name).write_text(text, encoding="utf-8")   # the same text, elsewhere
    assert run_app(["eval", "../A/run"]) == 0 and "validation part" in capsys.readouterr().out


def test_a_text_of_unknown_words_is_refused(tmp_path, capsys):
    words, out = text_file(tmp_path), tmp_path / "words"
    other, mixed = tmp_path / "other.txt", tmp_path / "mixed.txt"
    assert run_app(small(words, tokenizer="word", context=16, steps=2, out=out)) == 0
    capsys.readouterr()
    other.write_text("从前有一个国王。\n\n" * 30, encoding="utf-8")
    assert "of the words" in fails(capsys, "eval", str(out), "--data", str(other))
    assert "of the words" in fails(capsys, *train(**{"from": out}, data=other, steps=1, out="new"))
    one_zebra = words.read_text(encoding="utf-8").replace("\n\n", " zebra\n\n", 1)
    mixed.write_text(one_zebra, encoding="utf-8")
    assert run_app(["eval", str(out), "--data", str(mixed)]) == 0
    assert "hides their bytes" in capsys.readouterr().out


def test_config_file_or_its_folder_instead_of_depth(run, tmp_path, capsys):
    for i, config in enumerate((run / "config.json", run)):
        command = train(data=text_file(tmp_path), tokenizer=run, context=16, steps=2, out=f"a{i}")
        assert run_app([*command, "--config", str(config)]) == 0
        ours, theirs = (json.loads((Path(f) / "config.json").read_text()) for f in (f"a{i}", run))
        assert ours["hidden_size"] == theirs["hidden_size"]
        assert ours["max_position_embeddings"] == 16


def test_settings_of_a_file_give_way_to_options(tmp_path):
    data = text_file(tmp_path)
    held = dict(steps=9, lr=0.5, schedule="cosine", betas=[0.8, 0.9])
    Path("a.json").write_text(json.dumps(held))
    Path("b.toml").write_text('minutes = 3\nlr = 0.5\nbatch_size = 4\noptimizer = "adamw"\n')
    assert run_app(small(data, settings="a.json", lr=0.002, warmup=1, out="a")) == 0
    config = about("a")["config"]
    assert (config["steps"], config["lr"], config["schedule"]) == (4, 0.002, "cosine")
    assert config["betas"] == [0.8, 0.9] and config["warmup"] == 1
    assert run_app(small(data, settings="b.toml", eval_every=1, out="b")) == 0
    config = about("b")["config"]
    assert config["minutes"] is None and config["batch_size"] == 4 and config["steps"] == 4
    assert config["optimizer"] == "adamw" and config["eval_every"] == 1
    assert run_app(["train", "--resume", "--out", "a"]) == 0


def test_several_texts_weights_columns_and_encodings(tmp_path, capsys):
    Path("zh").mkdir()
    text = "从前有一个国王，他有三个女儿。\n\n一天，国王病了。\n\n" * 20
    Path("zh/a.txt").write_text(text, encoding="gb18030")
    rows = [json.dumps(dict(a="no", b=f"row {n}")) for n in range(99)]
    Path("rows.jsonl").write_text("\n".join(rows))
    assert run_app(small("zh", encoding="gb18030", out="zh-run")) == 0
    assert about("zh-run")["options"]["encoding"] == "gb18030"
    assert run_app(["eval", "zh-run"]) == 0
    assert run_app(["train", "--out", "zh-run", "--resume"]) == 0
    assert run_app(small("rows.jsonl", column="b", context=8, out="rows")) == 0
    two = small("zh@2", encoding="gb18030", out="both")
    Path("b.txt").write_text(text.replace("国王", "老人"), encoding="gb18030")
    assert run_app([*two, "--data", "b.txt"]) == 0
    assert about("both")["options"]["data"] == "zh@2+b.txt"
    shutil.copy("b.txt", "c++.txt")
    assert run_app(small("c++.txt", encoding="gb18030", steps=1, out="plus")) == 0
    capsys.readouterr()
    assert run_app(["eval", "both"]) == 0 and "validation part" in capsys.readouterr().out


def test_go_on_with_a_model(run, plain, tmp_path, capsys):
    data = text_file(tmp_path, 500)
    for model in (run, plain):
        out = tmp_path / f"from-{model.name}"
        start = train(**{"from": model}, data=data, steps=8, out=out)
        assert run_app(start) == 0
        assert "read other texts before" in capsys.readouterr().out
        ours, theirs = (json.loads((f / "config.json").read_text()) for f in (out, model))
        assert ours["hidden_size"] == theirs["hidden_size"]
        assert (out / "tokenizer.json").read_bytes() == (run / "tokenizer.json").read_bytes()
        losses = [json.loads(line)["val_loss"] for line in (out / "log.jsonl").open()]
        assert losses[-1] < losses[0] < about(run)["val_loss"] + 1   # it could do something before
    cut = train(**{"from": run}, context=16, data=data, steps=1, out="cut")
    assert run_app(cut) == 0
    assert json.loads(Path("cut/config.json").read_text())["max_position_embeddings"] == 16
    assert run_app(train(**{"from": run}, steps=1, out="own")) == 0   # its own text
    assert about("own")["options"]["data"] == about(run)["options"]["data"]
    assert run_app(["train", "--resume", "--out", "own"]) == 0


def test_a_gpt2_keeps_its_places(tmp_path, capsys):
    from gpt_nb.model import GPT, GPTConfig
    from gpt_nb.tokenizer import CharTokenizer
    data = text_file(tmp_path, 300)
    tok = CharTokenizer.train([data.read_text()])
    GPT(GPTConfig("gpt2", tok.vocab_size, 32, 1, 2, 16)).save_pretrained("old")
    tok.save("old")
    start = train(**{"from": "old"}, data=data, steps=2, out="new")
    assert "--context 16" in fails(capsys, *start, "--context", 16)
    assert run_app(start) == 0 and run_app(["sample", "new", "--tokens", "3"]) == 0


def test_a_finished_run_is_trained_longer(tmp_path, capsys):
    data = text_file(tmp_path, 300)
    assert run_app(small(data, out="run")) == 0
    capsys.readouterr()
    assert run_app(["train", "--resume", "--out", "run"]) == 0   # nothing is left to do
    assert about("run")["steps"] == 4
    capsys.readouterr()
    assert run_app(["train", "--resume", "--out", "run", "--steps", "9"]) == 0
    assert "longer schedule" in capsys.readouterr().err
    record = about("run")
    assert record["steps"] == record["options"]["steps"] == 9 and record["finished"]
    assert run_app(["train", "--resume", "--out", "run"]) == 0
    assert "--steps" in fails(capsys, "train", "--resume", "--out", "run", "--steps", 5)


def test_a_run_is_not_resumed_on_a_text_that_has_changed(tmp_path, capsys):
    data = text_file(tmp_path, 300)
    assert run_app(small(data, out="run")) == 0
    data.write_text(data.read_text("utf-8") + "3 times 3 makes 9\n", "utf-8")
    said = fails(capsys, "train", "--resume", "--out", "run", "--steps", 9)
    assert "is not what it was" in said and "--from run" in said and str(data) in said
    assert run_app(["train", "--from", "run", "--data", str(data), "--steps", "2",
                    "--out", "on"]) == 0


def test_a_prompt_that_is_too_long_is_named_before_anything_is_written(run, capsys):
    Path("prompts.txt").write_text("3 times\n" + "3 times " * 50 + "\n")
    assert "line 2" in fails(capsys, "sample", run, "--prompts", "prompts.txt", "--tokens", 4)


def test_compare_says_which_run_is_not_finished(run, capsys):
    shutil.copytree(run, "half")
    record = about("half") | dict(finished=False)
    Path("half", "training.json").write_text(json.dumps(record))
    assert run_app(["compare", str(run), "half"]) == 0
    assert capsys.readouterr().out.count("not finished") == 1


def test_export_to_a_full_disk_is_one_line(run, capsys, monkeypatch):
    import safetensors
    from gpt_nb import pretrained

    def full(*_, **__): raise safetensors.SafetensorError("No space left on device")
    monkeypatch.setattr(pretrained, "export", full)
    said = fails(capsys, "export", run, "--to", "hf", "--out", "new")
    assert "No space left" in said and "--out new" in said


def test_without_a_terminal_there_are_no_bars(tmp_path):
    text_file(tmp_path)
    for words in (small("lines.txt", out="run"), ["eval", "run", "--data", "lines.txt"]):
        done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=True)
        assert "examples/s" not in done.stderr and "reading lines.txt" in done.stderr
        if words[0] == "train": assert "measuring" in done.stderr


def test_compare_runs(run, tmp_path, capsys):
    data = run.parent / "lines.txt"
    assert run_app(small(data, lr=0.001, out="slow")) == 0
    capsys.readouterr()
    assert run_app(["compare", str(run), "slow", "--picture", "both.png"]) == 0
    out, err = capsys.readouterr()
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert table["name"] == ["run", "slow"] and table["lr"] == ["0.01", "0.001"]
    assert {"steps", "tokens", "seconds", "loss", "bits_per_byte"} <= table.keys()
    assert "both.png" in err and Path("both.png").stat().st_size > 1000
    assert "comparable" not in out and "depth" not in table
    other = text_file(tmp_path, 200)
    assert run_app(small(other, out="other")) == 0
    capsys.readouterr()
    assert run_app(["compare", str(run), "other"]) == 0
    assert "not comparable" in capsys.readouterr().out


@pytest.fixture
def few_stories(monkeypatch):
    from gpt_nb.data import load_texts
    few = tuple(400 if value == 100_000 else value for value in load_texts.__defaults__)
    monkeypatch.setattr("gpt_nb.data.load_texts.__defaults__", few)


def test_stories_that_hold_are_compared(capsys, monkeypatch, few_stories):
    monkeypatch.setattr("gpt_nb.cli.stories_that_hold.__defaults__", (4,))
    assert run_app(["compare", "tales-en"]) == 0
    assert "stories_that_hold" in capsys.readouterr().out


WRONG = """
train --data ''                                       | --data is empty
train --data missing.txt                              | no file
train --data shakespeare                              | tales
train --data empty.txt --steps 1                      | empty
train --data short.txt --context 64 --steps 1         | context
train --data binary.txt --steps 1                     | encoding
train --data lines.txt --encoding klingon             | klingon
train --data two.jsonl                                | --column
train --data two.jsonl --column c                     | 'c'
train --data lines.txt short.txt                      | quotes
train --data tales@0                                  | weight
train --data tales@x                                  | @x
train --data lines.txt+                               | --data
train --data lines.txt --tokenizer bpe:100            | --tokenizer bpe:100
train --data lines.txt --minutes 0                    | --minutes
train --data lines.txt --minutes -1                   | --minutes
train --data lines.txt --minutes nan                  | --minutes
train --data lines.txt --minutes soon                 | --minutes
train --data lines.txt --steps 0                      | --steps
train --data lines.txt --steps 1.5                    | --steps
train --data lines.txt --seed -1                      | --seed
train --data lines.txt --depth 0                      | --depth
train --data lines.txt --depth 400 --steps 1          | choose a smaller --depth
train --data lines.txt --depth 900 --steps 1          | at most 10,000,000,000,000 are built
train --data lines.txt --context 0                    | --context
train --data lines.txt --context 100000 --steps 1     | context
train --data lines.txt --depth 1 --config set         | exclude
train --data lines.txt --config nothing.json          | nothing.json
train --data lines.txt --config list.json             | list.json
train --data lines.txt --config .                     | config.json
train --data lines.txt --device abacus                | device
train --data lines.txt --tokenizer words              | char, word
train --data lines.txt --tokenizer bpe:many           | bpe:N
train --data lines.txt --tokenizer bpe:5              | 5
train --data lines.txt --tokenizer ''                 | --tokenizer
train --data lines.txt --lr -1                        | --lr
train --data lines.txt --lr nan                       | --lr
train --data lines.txt --muon-lr -0.1                 | --muon-lr
train --data lines.txt --batch-size 0                 | --batch-size
train --data lines.txt --optimizer sgd                | 'muon' or 'adamw'
train --data lines.txt --weight-decay -1              | --weight-decay
train --data lines.txt --warmup -1                    | --warmup
train --data lines.txt --eval-every 0                 | --eval-every
train --data lines.txt --precision float8             | --precision
train --data lines.txt --settings none.json           | none.json
train --data lines.txt --settings lines.txt           | .toml
train --data lines.txt --settings unknown.json        | learning_rate: known are
train --data lines.txt --settings broken.toml         | broken.toml
train --data lines.txt --settings list.json           | not an object
train --data lines.txt --settings kind.json           | lr
train --data lines.txt --from nowhere                 | nowhere
train --data lines.txt --from RUN --depth 2           | --depth
train --data lines.txt --from RUN --tokenizer char    | --tokenizer
train --data lines.txt --from RUN --config set        | --config
train --data lines.txt --from RUN --context 10000     | --context
train --from PLAIN                                    | needs --data
train --resume --out nothing                          | no run
train --resume --out RUN --depth 3                    | --depth was 1 and is 3
train --resume --out RUN --lr 0.5                     | --lr was
train --resume --out RUN --from tales-en              | --from was
train --resume --out RUN --steps 3                    | --steps
train --data lines.txt --steps 1 --out RUN            | resume
train --data lines.txt --steps 1 --out short.txt      | is a file
train --data lines.txt --steps 1 --out full           | not empty
train --data lines.txt --frm x                        | No such option
train --data lines.txt --lr                           | --lr
sample                                                | MODEL
sample nowhere                                        | nowhere
sample full                                           | config.json
sample RUN --temperature -1                           | --temperature
sample RUN --top-k 0                                  | --top-k
sample RUN --top-p 1.5                                | --top-p
sample RUN --min-p 2                                  | --min-p
sample RUN --tokens -1                                | --tokens
sample RUN --seed -1                                  | --seed
sample RUN --prompt '7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7' | context
sample RUN --prompt é                                 | character
sample RUN --prompts missing.txt                      | missing.txt
sample RUN --prompts empty.txt                        | empty
sample RUN --prompts binary.txt                       | UTF-8
sample RUN --prompt a --prompts short.txt             | exclude
sample RUN --stop ''                                  | stop
sample RUN --device abacus                            | device
sample RUN --topk 3                                   | No such option
eval nowhere                                          | nowhere
eval RUN --data ''                                    | --data is empty
eval RUN --data missing.txt                           | no file
eval RUN --data two.jsonl                             | --column
eval RUN --limit 0                                    | --limit
eval RUN --limit many                                 | --limit
eval PLAIN                                            | --data
compare                                               | RUN
compare nowhere                                       | nowhere
compare RUN PLAIN                                     | training.json
compare RUN --picture a.xyz                           | --picture
compare RUN --picture no/where.png                    | --picture
export RUN --to tflite --out new                      | hf, onnx or gguf
export RUN --out new                                  | --to
export RUN --to hf                                    | --out
export RUN --to hf --out full                         | not an empty folder
export nowhere --to hf --out new                      | nowhere
demo --data pydocs                                    | tales and tales-zh
demo --minutes 0                                      | --minutes
demo --out RUN                                        | not a built-in world
trian                                                 | trian
--nope                                                | --nope
""".strip().splitlines()


@pytest.fixture(scope="module")
def wrong_place(tmp_path_factory):
    "A folder with files that are no good."
    folder = tmp_path_factory.mktemp("wrong")
    text_file(folder)
    texts = {"empty.txt": "", "short.txt": "a line\n\nanother\n", "list.json": "[1]",
             "unknown.json": '{"learning_rate": 1}', "kind.json": '{"lr": "fast"}',
             "broken.toml": "lr = = 1", "set/config.json": "{}", "full/log.jsonl": "precious",
             "two.jsonl": '{"a": "x y z", "b": "u v w"}\n' * 9}
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "binary.txt").write_bytes(bytes(range(256)))
    return folder


@pytest.mark.parametrize("line", WRONG, ids=lambda line: " ".join(line.split("|")[0].split()))
def test_bad_input_is_one_line(line, run, plain, wrong_place, capsys, monkeypatch):
    import shlex
    monkeypatch.chdir(wrong_place)
    command, expected = map(str.strip, line.rsplit("|", 1))
    known = {"RUN": run, "PLAIN": plain}
    words = [str(known.get(word, word)) for word in shlex.split(command)]
    said = fails(capsys, *words)
    name = words[0] if words[0] in ("train", "sample", "eval", "compare", "export", "demo") else ""
    assert expected in said and said.endswith(f"(see gpt-nb {name} --help)".replace("  ", " "))


def test_nothing_was_left_behind_by_bad_input(wrong_place):
    assert not any((wrong_place / name).exists() for name in ("runs", "new", "compare.png"))


def test_several_processes_are_refused_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "torchrun" in fails(capsys, *small(text_file(tmp_path, 200), out="new"))
    assert not Path("new").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json",
                                  "training.json"])
@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_damaged_run_folder(run, tmp_path, capsys, name, damage):
    for path in run.iterdir():
        if path.is_file(): (tmp_path / path.name).write_bytes(path.read_bytes())
    if damage == "missing": (tmp_path / name).unlink()
    else: (tmp_path / name).write_bytes((run / name).read_bytes()[:40])
    if (name, damage) == ("training.json", "missing"):   # it is a model still
        assert run_app(["sample", str(tmp_path), "--tokens", "3"]) == 0
    else: assert name in fails(capsys, "sample", tmp_path)


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
    assert not about(tmp_path / "broken")["finished"]
    resumed = [*COMMAND, "train", "--out", str(tmp_path / "broken"), "--resume"]
    assert run_it(resumed).returncode == 0
    files = [tmp_path / name / "model.safetensors" for name in ("whole", "broken")]
    weights = [file.read_bytes() for file in files]
    assert weights[0] == weights[1]


def test_demo_tells_how_far_it_is_from_the_best(tmp_path, few_stories, capsys):
    out = tmp_path / "demo"
    assert run_app(["demo", "--minutes", "0.05", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "no model can do better than" in shown and "Once" in shown
    assert f"gpt-nb sample {out}" in shown and (out / "run.png").exists()
    options = about(out)["options"]
    assert (options["tokenizer"], options["depth"], options["batch_size"]) == ("word", 2, 32)
    assert run_app(["demo", "--out", str(out)]) == 0
    assert "showing that one" in capsys.readouterr().err


def test_unknown_words_are_said_to_hide_the_bytes(run, tmp_path, capsys):
    lines = tmp_path / "words.txt"
    stories = [f"the {'cat' if n % 2 else 'dog'} sat on mat {n}\n\n" for n in range(300)]
    lines.write_text("".join(stories))
    folder = str(tmp_path / "run")
    assert run_app(small(lines, tokenizer="word", context=16, steps=2, out=folder)) == 0
    lines.write_text("a zebra sat on the mat 7\n\n" * 40)
    assert run_app(["eval", folder, "--data", str(lines)]) == 0
    assert "hide" in capsys.readouterr().out


def test_text_that_is_hard_to_count_ends_well(tmp_path, capsys):
    lines = "".join(f"line {n} of plain text\n\n" for n in range(60))
    texts = dict(accents=lines + "caf\u00e9 \u2013 " * 30, tiny="a\n\nb\n\nc\n",
                 nul=lines + "\0" * 50 + "\n")
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
        assert run_app(train(data=f"{name}.txt", steps=1, out=name)) == 0, name
        said = capsys.readouterr().out
        assert f"{name} holds the run" in said and "too few to tell" in said


def test_crossed_is_said_only_where_it_means_something():
    fair = dict(tokenizer="bpe:1024", start=None)
    assert why_no_race(fair, 50_000) == ""
    assert "600 bytes" in why_no_race(fair, 600)
    assert "known beforehand" in why_no_race(fair | dict(tokenizer="char"), 50_000)
    assert "elsewhere" in why_no_race(fair | dict(tokenizer="folder"), 50_000)
    assert "read other texts" in why_no_race(fair | dict(start="tales-en"), 50_000)


def test_a_tokenizer_is_learned_from_the_training_part(tmp_path):
    from gpt_nb.checkpoint import load_tokenizer
    words = [f"word{'abcdefghij'[n % 10]}{n} and some more of it\n" for n in range(200)]
    (tmp_path / "text.txt").write_text("".join(words) + "zyzzyva " * 90)
    assert run_app(train(data="text.txt", tokenizer="bpe:400", depth=1, context=16, steps=1,
                         out="run")) == 0
    assert b"zyzzyva" not in load_tokenizer("run").ids


def test_choices_fit_the_text():
    english, chinese = ["It was a dark night. " * 2000], ["从前有一个国王。" * 2000]
    assert measure_text(english) == (42_000, 0.0) and measure_text(chinese)[1] > 0.8
    kinds = [choose_tokenizer(size, 0.0) for size in (10_000, 500_000, 2_000_000, 20_000_000)]
    assert len(set(kinds)) == len(kinds)
    fast, slow = (Budget(None, 3, 1024, pace, 10**9) for pace in (1e13, 1e9))
    assert choose_depth(2048, 128, fast) > 4 and choose_depth(2048, 128, slow) == 1
    assert choose_depth(2048, 128, Budget(10**6, None, 1024, 0, 10**9)) > 4
    assert choose_depth(512, 128, Budget(10**6, None, 1024, 0, 70_000)) == 1   # a short text


def test_with_steps_the_choice_does_not_hang_on_the_clock(tmp_path, monkeypatch):
    data = text_file(tmp_path, 1000)
    monkeypatch.setattr("gpt_nb.cli.measure_pace", lambda *a: 1 / 0)
    for out in ("a", "b"): assert run_app(train(data=data, steps=5, out=out)) == 0
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()


def test_a_short_text_is_not_read_for_minutes_unless_asked(tmp_path, capsys):
    assert run_app(train(data=text_file(tmp_path, 60), context=16, out="run")) == 0
    record, err = about("run"), capsys.readouterr().err
    assert record["finished"] and record["seconds"] < 60 and "about 8.0 epochs" in err
    assert record["options"]["steps"] == record["steps"] and record["options"]["minutes"] == 3


def test_with_minutes_what_was_chosen_is_kept(tmp_path, capsys):
    data = text_file(tmp_path, 1000)
    assert run_app(train(data=data, minutes=0.02, out="run")) == 0
    err = capsys.readouterr().err
    options = about("run")["options"]
    assert f"{options['depth']} layer" in err and "epoch" in err
    assert {"tokenizer", "depth", "context", "batch_size"} <= options.keys()
    assert run_app(["train", "--resume", "--out", "run"]) == 0
    assert "epoch" not in capsys.readouterr().err
    assert about("run")["options"] == options


def test_resume_takes_the_device_it_was_started_with(tmp_path, capsys):
    start = small(text_file(tmp_path), steps=2, device="cpu", out="my run")
    assert run_app(start) == 0 and run_app(["train", "--out", "my run", "--resume"]) == 0
    assert "gpt-nb sample 'my run'" in capsys.readouterr().out


def test_stopped_before_the_first_state_begins_again(tmp_path):
    assert run_app(small(text_file(tmp_path), steps=2, out="run")) == 0
    record = about("run")
    for path in list(Path("run").iterdir()):
        if path.name in ("training.json", "log.jsonl"): continue
        if path.is_dir(): shutil.rmtree(path)
        else: path.unlink()
    Path("run/training.json").write_text(json.dumps(record | dict(steps=0, finished=False)))
    assert run_app(["train", "--out", "run", "--resume"]) == 0
    assert about("run")["finished"]


@pytest.mark.parametrize("damage", [
    dict(data=None),
    dict(tokenizer=3),
    dict(batch_size="8"),
    dict(seed=[1]),
    dict(depth=True),
    dict(config=5),
    dict(lr=None),
])
def test_damaged_options_are_named(run, tmp_path, capsys, damage):
    shutil.copytree(run, "run")
    record = about("run")
    options = record["options"] | damage
    Path("run/training.json").write_text(json.dumps(record | dict(options=options)))
    assert next(iter(damage)) in fails(capsys, "train", "--resume", "--out", "run")


def test_closed_streams(run):
    command = f'{sys.executable} -c "from gpt_nb.cli import main; main()" sample {run} --tokens 5'
    options = dict(shell=True, capture_output=True, text=True)
    shell = lambda tail: subprocess.run(f"{command} {tail}", **options)
    assert shell(">&-").returncode == 0 and "Traceback" not in shell(">&- 2>&1").stderr
    assert "Traceback" not in shell("| head -c 1").stderr


def guests(folder: Path, name: str = "guests.csv", text: str = "Review", label: str = "Label",
           encoding: str = "utf-8") -> Path:
    "A table of what guests said."
    said = {"good": ("was lovely", "was the best", "made me smile"),
            "bad": ("was cold", "came late", "made me ill")}
    rows = [f"The {dish} {words},{mark}" for dish in "soup rice fish bread cake tea pie".split()
            for mark, all_words in said.items() for words in all_words]
    (folder / name).write_text("\n".join([f"{text},{label}", *rows]) + "\n", encoding)
    return folder / name


def tune_on(data: Path, **options) -> list[str]:
    "The words of a command that fine-tunes, for a short while."
    options = dict(task="classify", data=data, epochs=2) | options
    words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options.items()]
    return ["finetune", "tales-short", *(word for pair in words for word in pair)]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    "A run that tells good from bad."
    folder = tmp_path_factory.mktemp("tuned")
    os.environ["HF_DATASETS_CACHE"] = str(tmp_path_factory.getbasetemp() / "datasets")
    assert run_app(tune_on(guests(folder), epochs=6, out=folder / "run")) == 0
    return folder / "run"


def test_finetune_help_is_in_groups_and_fits_the_terminal(capsys):
    for name, order in dict(
            finetune=["  --task", "  --data", "  --tune", "Which columns", "  --text-column",
                      "How it learns", "  --learn", "  --lr"],
            predict=["  --data", "  --proba", "Which columns", "  --text-column"]).items():
        assert run_app([name, "--help"]) == 0
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) <= 80
        places = [shown.index(f"\n{word}") for word in order]
        assert places == sorted(places)


def test_predict_writes_one_label_a_line_in_order(tuned, tmp_path, capsys, monkeypatch):
    import io
    texts = ["The stew made me smile", "The stew was cold", "The stew was lovely"] * 100
    expected = ["good", "bad", "good"] * 100
    Path("new.csv").write_text("Review\n" + "\n".join(texts) + "\n")
    Path("new.txt").write_text("\n".join(texts) + "\n")
    Path("new.jsonl").write_text("\n".join(json.dumps(dict(n=i, said=text))
                                           for i, text in enumerate(texts)))
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(texts) + "\n"))
    for data in (["new.csv"], ["new.txt"], ["-"], ["new.jsonl", "--text-column", "said"]):
        assert run_app(["predict", str(tuned), "--data", *data]) == 0
        out, err = capsys.readouterr()
        assert out.splitlines() == expected and err == ""
    assert run_app(["predict", str(tuned), "--data", "new.txt", "--proba"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["label"] for row in rows] == expected
    assert all(abs(sum(row["proba"].values()) - 1) < 1e-3 for row in rows)
    assert set(rows[0]["proba"]) == {"bad", "good"}


def test_predict_leaves_no_row_out(tuned, capsys):
    Path("gaps.csv").write_text('text,label\n"The soup\nwas cold",\n ,\nThe tea was lovely,?\n')
    assert run_app(["predict", str(tuned), "--data", "gaps.csv"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and out.splitlines()[::2] == ["bad", "good"]
    assert "note: 1 row has nothing to answer (first: gaps.csv: row 2 (line 4))" in err


def test_lines_of_stdin_and_of_plain_files(tuned, capsys, monkeypatch):
    import io
    lines = "\ufeffThe soup was cold\r\n\r\nThe tea was lovely: très\r\n"

    def answers(data: bytes, *more) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))
        Path("lines.txt").write_bytes(data)
        said = []
        for name in ("-", "lines.txt"):
            code = run_app(["predict", str(tuned), "--data", name, *more])
            said.append((code, *capsys.readouterr()))
        assert said[0][0] == said[1][0] and said[0][1] == said[1][1]
        return said[0]

    code, out, err = answers(lines.encode())
    assert code == 0 and out.splitlines()[::2] == ["bad", "good"] and len(out.splitlines()) == 3
    assert "note: 1 empty line: an answer to nothing tells nothing (first: line 2)" in err
    assert answers(lines[1:].encode("latin-1"), "--encoding", "latin-1")[1] == out
    code, out, err = answers(lines[1:].encode("latin-1"))
    assert code == 2 and "stdin is not UTF-8 text (byte 0xe8" in err and "--encoding" in err
    assert "stdin is empty" in answers(b"")[2]


def test_several_files_of_examples(tuned, tmp_path, capsys):
    guests(tmp_path, "a.csv")
    Path("b.csv").write_text("Review;Label\nThe stew, it was cold;bad\n")
    assert run_app(["predict", str(tuned), "--data", "a.csv", "--data", "b.csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 43
    assert run_app(["eval", str(tuned), "--data", "a.csv", "--data", "b.csv"]) == 0
    assert "a.csv+b.csv: 43 examples" in capsys.readouterr().out
    words = [*tune_on("a.csv", val="b.csv", out="run", epochs=1), "--data", "b.csv"]
    assert run_app(words) == 0
    out, err = capsys.readouterr()
    assert "43 examples to learn from, 1 to validate on" in err and "on 1 example:" in out
    assert err.count("note: 1 row has a text to validate on that is trained on as well") == 1


def test_tasks_of_the_world_are_data(tmp_path, capsys):
    assert run_app(tune_on("tales:names", task="tag", epochs=0.2, out="run")) == 0
    assert "231 examples to learn from, 25 to validate on" in capsys.readouterr().err
    assert run_app(["eval", "run", "--data", "tales:names:test"]) == 0
    assert "tales:names:test: 256 examples" in capsys.readouterr().out
    for name, role in (("tales:mood", "label"), ("tales-zh:names", "tags"),
                       ("tales:question", "target"), ("tales-zh:summary:test", "target")):
        rows = rows_of_world(name)
        assert len(rows) == 256 and role in rows[0] and rows[5]["where"] == f"{name}[5]"
        other = rows_of_world(name.removesuffix(":test") + ":test" * (":test" not in name))
        assert not {str(row) for row in rows} & {str(row) for row in other}
    assert rows_of_world("tales.csv") is None
    for name in ("tales", "tales:2", "tales-zh:mood"):
        assert "the tasks are names," in fails(capsys, *tune_on(name))


def test_eval_of_a_run_that_was_turned_to_a_task(tuned, capsys):
    assert run_app(["eval", str(tuned), "--data", str(tuned.parent / "guests.csv")]) == 0
    out, err = capsys.readouterr()
    table = {line.rsplit(maxsplit=1)[0]: line.split()[-1] for line in out.splitlines()[1:]}
    assert float(table["accuracy"]) > 0.9 and float(table["loss"]) > 0
    assert table["commonest label"] == "0.5000" and "42 examples" in out
    Path("more.csv").write_text("text,label\nThe soup was cold,meh\n")
    assert "more.csv: row 1 (line 2): the label 'meh' was never seen in training: known are bad, " \
           "good" in fails(capsys, "eval", tuned, "--data", "more.csv")
    assert "give --data FILE" in fails(capsys, "eval", tuned)


def test_what_tells_labels_does_not_write(tuned, run, capsys):
    again = ["finetune", tuned, "--task", "classify", "--data", tuned.parent / "guests.csv"]
    export = ["export", tuned, "--to", "hf", "--out", "x"]
    for command in (["sample", tuned], ["compare", tuned], export, again):
        assert f"gpt-nb predict {tuned} --data FILE" in fails(capsys, *command)
    assert "resume it with gpt-nb finetune" in fails(capsys, "train", "--resume", "--out", tuned)
    assert "--task ... does that" in fails(capsys, "predict", run, "--data", "-")
    assert "--task ... does that" in fails(capsys, "predict", "tales-short", "--data", "-")


def test_chinese_of_another_encoding(tmp_path, capsys):
    words = {"很好吃": "好评", "真香": "好评", "太咸了": "差评", "很难吃": "差评"}
    lines = ["评论,标签", *(f"{dish}{said},{label}" for dish in ("汤", "鱼", "面条", "米饭", "茶")
                         for said, label in words.items())]
    Path("评价.csv").write_bytes("\r\n".join(lines).encode("gb18030"))
    said = fails(capsys, *tune_on("评价.csv", out="run"))
    assert "--encoding gb18030" in said
    assert run_app(tune_on("评价.csv", epochs=10, encoding="gb18030", out="run")) == 0
    Path("新.txt").write_text("豆腐真香\n豆腐很难吃\n")
    capsys.readouterr()
    assert run_app(["predict", "run", "--data", "新.txt"]) == 0
    assert capsys.readouterr().out == "好评\n差评\n"


def test_tags_and_their_predictions(tmp_path, capsys, monkeypatch):
    import io
    names, places = "Mia Tom Ann Leo Eva Max".split(), "Rome Bonn Oslo Nice".split()
    sentences = [f"{name} B-PER\nlives O\nin O\n{place} B-LOC\n"
                 for name in names for place in places]
    Path("t.conll").write_text("\n".join(sentences))
    assert run_app(tune_on("t.conll", task="tag", epochs=6, out="run")) == 0
    capsys.readouterr()
    assert run_app(["predict", "run", "--data", "t.conll"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(sentences) and lines[0] == "B-PER O O B-LOC"
    monkeypatch.setattr(sys, "stdin", io.StringIO("Tom lives in Bonn\n\nAnn lives\n"))
    assert run_app(["predict", "run", "--data", "-"]) == 0
    assert [len(line.split()) for line in capsys.readouterr().out.split("\n")[:-1]] == [4, 0, 2]
    assert run_app(["eval", "run", "--data", "t.conll"]) == 0
    assert "entity F1" in capsys.readouterr().out
    assert "--proba" in fails(capsys, "predict", "run", "--data", "t.conll", "--proba")


def test_texts_are_written_on_one_line(tmp_path, capsys):
    rows = [dict(question=f"What is {n}?", context="Numbers.", answers=dict(text=["one\nand two"]))
            for n in range(10)]
    Path("q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    how = dict(task="generate", epochs=12, val=0.2, batch_size=2)
    assert run_app(tune_on("q.jsonl", **how, out="run")) == 0
    capsys.readouterr()
    assert run_app(["predict", "run", "--data", "q.jsonl"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and all(r"one\nand two" in line for line in lines)
    assert run_app(["eval", "run", "--data", "q.jsonl"]) == 0
    out = capsys.readouterr().out
    assert "exact match" in out and "token accuracy" in out
    assert run_app(["sample", "run", "--prompt", "Numbers.", "--tokens", "3"]) == 0   # it writes


def test_a_file_to_validate_on_and_named_columns(tmp_path, capsys):
    guests(tmp_path, "a.csv", "said", "mark")
    guests(tmp_path, "b.csv", "said", "mark")
    assert "none is known to hold the text" in fails(capsys, *tune_on("a.csv"))
    named = dict(text_column="said", label_column="mark", val="b.csv", out="run")
    assert run_app(tune_on("a.csv", **named)) == 0
    out, err = capsys.readouterr()
    assert "42 examples to learn from, 42 to validate on; labels bad, good" in err
    assert "validation on 42 examples" in out
    Path("b.csv").write_text("said,mark\nfine,good\nhm,so so\n")
    said = fails(capsys, *tune_on("a.csv", **named | dict(out="other")))
    assert "b.csv: row 2 (line 3): the label 'so so' was never seen" in said
    assert run_app(["predict", "run", "--data", "a.csv"]) == 0   # the columns of the run
    assert len(capsys.readouterr().out.splitlines()) == 42


def test_a_search_keeps_the_best_and_repeats_itself(tmp_path, capsys):
    data, tables = guests(tmp_path), []
    for out in ("a", "b"):
        assert run_app(tune_on(data, tune=3, out=out)) == 0
        tables.append(capsys.readouterr().out.split(f"{out} holds")[0])
    assert tables[0] == tables[1] and tables[0].count("\n") == 5
    assert about("a")["options"]["epochs"] == 2   # given, so not searched
    assert not Path("a/trials").exists()
    assert run_app(["finetune", "--out", "a", "--resume", "--tune", "4"]) == 0
    again = capsys.readouterr()
    assert "trial 4 of 4" in again.err and "trial 3 of" not in again.err
    assert run_app(["predict", "a", "--data", str(data)]) == 0


def test_a_stopped_search_goes_on(tmp_path, capsys, monkeypatch):
    from gpt_nb import finetuning
    data, calls, really = guests(tmp_path), [], finetuning.finetune

    def interrupted(*arguments, **more):
        calls.append(more)
        if len(calls) == 3: raise KeyboardInterrupt
        return really(*arguments, **more)

    assert run_app(tune_on(data, tune=4, out="whole")) == 0
    whole = capsys.readouterr().out.split("whole holds")[0]
    monkeypatch.setattr(finetuning, "finetune", interrupted)
    assert run_app(tune_on(data, tune=4, out="broken")) == 130
    assert "gpt-nb finetune --out broken --tune 4 --resume" in capsys.readouterr().err
    assert "give --tune N as well" in fails(capsys, "finetune", "--out", "broken", "--resume")
    assert run_app(["finetune", "--out", "broken", "--tune", "4", "--resume"]) == 0
    assert capsys.readouterr().out.split("broken holds")[0] == whole and len(calls) == 5


def test_train_searches_too(tmp_path, capsys):
    command = small(text_file(tmp_path), steps=6, tune=3, out="run")
    assert run_app(command) == 0
    out, err = capsys.readouterr()
    assert "trial 3 of 3" in err and "run holds the run" in out
    table = [line.split() for line in out.splitlines()[:4]]
    assert table[0] == ["trial", "lr", "muon_lr", "val_loss", "state"]
    losses = [float(row[3]) for row in table[1:] if row[-1] == "done"]
    assert losses == sorted(losses) and abs(about("run")["val_loss"] - losses[0]) < 1e-3
    assert about("run")["options"]["lr"] == about("run")["config"]["lr"]
    assert run_app(["sample", "run", "--tokens", "3"]) == 0
    assert run_app(["train", "--out", "run", "--resume", "--steps", "9"]) == 0
    assert "nothing to search" in fails(capsys, *small("lines.txt", lr=0.1, muon_lr=0.1, tune=2,
                                                       out="new"))


def test_ctrl_c_saves_a_fine_tuning_and_resume_equals_an_uninterrupted_run(tmp_path):
    def words(out): return tune_on(tmp_path / "guests.csv", epochs=40, out=tmp_path / out)

    guests(tmp_path)
    process = subprocess.Popen([*COMMAND, *words("broken")], text=True, stderr=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    while process.poll() is None and not (tmp_path / "broken" / "state").exists(): time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert f"Go on with: gpt-nb finetune --out {tmp_path / 'broken'} --resume" in errors
    assert not about(tmp_path / "broken")["finished"]
    assert run_app(["finetune", "--out", str(tmp_path / "broken"), "--resume"]) == 0
    assert run_app(words("whole")) == 0
    files = [tmp_path / name / "model.safetensors" for name in ("whole", "broken")]
    assert files[0].read_bytes() == files[1].read_bytes()


WRONG_TASKS = """
finetune                                                        | MODEL is missing
finetune tales-short                                            | --task is missing
finetune tales-short --task classify                            | --data is missing
finetune tales-short --task sort --data g.csv                   | one of classify, tag, generate
finetune nowhere --task classify --data g.csv                   | nowhere
finetune tales-short --task classify --data no.csv              | no file no.csv
finetune tales-short --task classify --data .                   | is a folder
finetune tales-short --task classify --data lines.txt           | is no table
finetune tales-short --task classify --data head.csv            | has no rows
finetune tales-short --task classify --data one.csv             | no label but 'good'
finetune tales-short --task classify --data two.csv             | row 2 (line 3): label '1.0'
finetune tales-short --task tag --data odd.conll                | line 2: 'Rome' is not a word
finetune tales-short --task tag --data uneven.jsonl             | row 1: 2 words and 1 tag:
finetune tales-short --task generate --data g.csv               | hold the text
finetune tales-short --task classify --data g.csv --text-column x   | no column 'x'
finetune tales-short --task classify --data g.csv --tags-column x   | not 'tags'
finetune tales-short --task classify --data g.csv --val 0.9     | val=0.9
finetune tales-short --task classify --data g.csv --val no.csv  | no file no.csv
finetune tales-short --task classify --data g.csv --val ''      | --val is empty
finetune tales-short --task classify --data g.csv --learn most  | --learn most
finetune tales-short --task classify --data g.csv --learn 99    | at most 3
finetune tales-short --task classify --data g.csv --epochs 0    | --epochs
finetune tales-short --task classify --data g.csv --lr nan      | --lr
finetune tales-short --task classify --data g.csv --batch-size 0 | --batch-size
finetune tales-short --task classify --data g.csv --seed -1     | --seed
finetune tales-short --task classify --data g.csv --tune 0      | --tune
finetune tales-short --task classify --data g.csv --device abacus | abacus
finetune tales-short --task classify --data g.csv --out full    | not empty
finetune tales-short --task classify --data g.csv --out TUNED   | resume
finetune tales-short --task classify --data g.csv --lr 1 --epochs 1 --learn all --tune 2 | to search
finetune --resume                                               | needs the --out
finetune --resume --out nothing                                 | no run to resume
finetune --resume --out RUN                                     | not made by gpt-nb finetune
finetune --resume --out TUNED --epochs 9                        | --epochs was 6.0 and is 9.0
finetune --resume --out TUNED --tune 3                          | holds no search
predict TUNED                                                   | --data is missing
predict TUNED --data no.csv                                     | no file no.csv
predict TUNED --data empty.txt                                  | is empty
predict TUNED --data g.csv --text-column x                      | no column 'x'
predict nowhere --data g.csv                                    | nowhere
predict TUNED --data g.csv --device abacus                      | abacus
eval TUNED --data no.csv                                        | no file no.csv
train --data lines.txt --tune 0                                 | --tune
""".strip().splitlines()


@pytest.fixture(scope="module")
def wrong_examples(tmp_path_factory):
    "A folder with examples that are no good."
    folder = tmp_path_factory.mktemp("examples")
    guests(folder, "g.csv")
    texts = {"lines.txt": "a\nb\n", "empty.txt": "", "head.csv": "text,label\n",
             "one.csv": "text,label\na,good\nb,good\n", "two.csv": "text,label\na,1\nb,1.0\n",
             "odd.conll": "Mia B-PER\nRome\n", "full/log.jsonl": "precious",
             "uneven.jsonl": '{"words": ["a", "b"], "tags": ["O"]}\n'}
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("line", WRONG_TASKS, ids=lambda line: " ".join(line.split("|")[0].split()))
def test_bad_examples_are_one_line(line, run, tuned, wrong_examples, capsys, monkeypatch):
    import shlex
    monkeypatch.chdir(wrong_examples)
    command, expected = map(str.strip, line.rsplit("|", 1))
    words = [str(dict(RUN=run, TUNED=tuned).get(word, word)) for word in shlex.split(command)]
    said = fails(capsys, *words)
    assert expected in said and said.endswith(f"(see gpt-nb {words[0]} --help)")
    assert not (wrong_examples / "runs").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json",
                                  "training.json"])
@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_a_damaged_run_of_labels(tuned, tmp_path, capsys, name, damage):
    for path in tuned.iterdir():
        if path.is_file(): (tmp_path / path.name).write_bytes(path.read_bytes())
    if damage == "missing": (tmp_path / name).unlink()
    else: (tmp_path / name).write_bytes((tuned / name).read_bytes()[:40])
    said = fails(capsys, "predict", tmp_path, "--data", tuned.parent / "guests.csv")
    assert name in said or "was not turned to a task" in said


def test_options_of_a_run_that_are_damaged(tuned, tmp_path, capsys):
    for path in tuned.iterdir():
        if path.is_file(): (tmp_path / path.name).write_bytes(path.read_bytes())
    for options in ([], {}, dict(model=5, task=[], data={}),
                    dict(model="a", task="tag", data=["x"]),
                    dict(model="tales-short", task="classify", data="x", lr="fast")):
        record = about(tuned) | dict(options=options)
        Path("training.json").write_text(json.dumps(record))
        fails(capsys, "finetune", "--resume", "--out", ".")
