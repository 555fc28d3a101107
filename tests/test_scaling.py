"""Several processes train the model that one trains: shown on the CPU with gloo."""
import contextlib
import copy
import io
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from gpt_nb import cli, scaling
from gpt_nb.data import tokenize
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.scaling import Alone, all_reduce_by_hand, launch, ring_all_reduce, train_on
from gpt_nb.tales import Tales
from gpt_nb.tokenizer import WordTokenizer
from gpt_nb.training import (Run, Single, TrainConfig, Trainer, Validation, train,
                             validation_loss)

CONFIG = TrainConfig(steps=6, batch_size=8, log_every=1, eval_every=3, eval_tokens=1000,
                     warmup=2, device="cpu", precision="float32")
SHAPES = {"qwen3": dict(n_kv_head=4), "gpt2": dict(tie_embeddings=True)}


@pytest.fixture(scope="module")
def tokens():
    texts = list(Tales().texts(200))
    return tokenize(texts, WordTokenizer.train(texts, vocab_size=2**13), progress=False)


def make(tokens, arch="qwen3"):
    torch.manual_seed(0)
    shape = GPTConfig(arch, tokens.vocab_size, 96, 2, 4, 32, **SHAPES[arch])
    return GPT(shape)


def losses(history): return [row["loss"] for row in history[1:]]


def three_ways(sizes):
    "Sums over the ranks, by hand twice and by torch."
    found = []
    for size in sizes:
        x = torch.randn(size, generator=torch.Generator().manual_seed(dist.get_rank()))
        whole = x.clone()
        dist.all_reduce(whole)
        found.append((x, all_reduce_by_hand(x), ring_all_reduce(x), whole))
    return found


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_sums_by_hand_are_those_of_torch(world):
    ranks = launch(world, three_ways, [(1,), (3,), (7, 5), (64, 3)])
    for same in zip(*ranks):
        want = sum(x for x, *_ in same)
        for x, *sums in same:
            for total in sums: torch.testing.assert_close(total, want)


CONFIGS = {"qwen3": CONFIG, "gpt2": replace(CONFIG, optimizer="adamw", accumulate=2, grad_clip=0.5)}


@pytest.fixture(scope="module")
def one(tokens):
    "What one process does."
    return {arch: train(make(tokens, arch), tokens, config, show=False)
            for arch, config in CONFIGS.items()}


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "tp"])
@pytest.mark.parametrize("arch", SHAPES)
def test_many_processes_train_the_model_of_one(tokens, one, kind, world, arch):
    config = CONFIGS[arch]
    ranks = train_on(world, kind, make(tokens, arch), tokens, config, recompute=world == 4)
    assert [r.rank for r in ranks] == list(range(world))
    for report in ranks:
        assert losses(report.history) == pytest.approx(losses(one[arch].history), abs=2e-5)
        assert report.history[-1]["tokens"] == one[arch].history[-1]["tokens"]
        found, want = report.history[-1]["val_loss"], one[arch].val_loss
        assert found == pytest.approx(want, abs=2e-5) and found < report.history[0]["val_loss"]


def looked_at(tokens, config, sizes):
    "What each process finds, of how many of the tokens that count, and in how many calls."
    found = {}
    for kind in scaling.KINDS:
        model = make(tokens)
        t = Trainer(Run(model, None, config, []), tokens, scaling.KINDS[kind](config))
        plain, read = model.loss, []
        model.loss = lambda x, y: (read.append(int((y != -100).sum())), plain(x, y))[1]
        t.progress.used = 1   # all of it
        for size in sizes:
            t.validation.tokens = replace(tokens, val=tokens.val[:size])
            read.clear()
            loss = t.validation(model, t.progress)
            found[kind, size] = loss, sum(read), len(read)
    return found


def test_the_validation_text_is_shared_out_and_nothing_counts_twice(tokens):
    "Where rows do not divide among the processes, others count some of them twice."
    config, sizes = replace(CONFIG, batch_size=6), (2, 60, 300, len(tokens.val))
    one, two = launch(2, looked_at, tokens, config, sizes)
    for (kind, size), (loss, read, calls) in one.items():
        assert two[kind, size][::2] == (loss, calls)   # each hears the same, called as often
        want = validation_loss(make(tokens), tokens.val[:size], tokens.end_id)
        assert loss == pytest.approx(want, abs=3e-6)
        assert read + two[kind, size][1] == (size - 1) * (2 if kind == "tp" else 1)
        if size == len(tokens.val) and kind != "tp": assert 0.8 < 2 * read / (size - 1) < 1.2


@pytest.mark.parametrize("batch_size, accumulate, parts, rows", [
    (8, 1, 1, 8), (8, 2, 1, 4), (8, 1, 4, 8), (8, 2, 4, 4), (8, 8, 4, 4), (8, 4, 2, 2)])
def test_no_more_is_validated_on_at_once_than_is_trained_on(batch_size, accumulate, parts, rows):
    config, backend = replace(CONFIG, batch_size=batch_size, accumulate=accumulate), Single()
    backend.parts = parts
    assert Validation(None, config, None, backend).at_once == rows


STEADY = replace(CONFIG, decay=0.0)   # its rates do not depend on where a run ends


@pytest.fixture(scope="module")
def through(tokens): return train(make(tokens), tokens, STEADY, show=False).history


@pytest.mark.parametrize("first, then", [("fsdp", "fsdp"), ("tp", "ddp"), ("ddp", "tp"),
                                         ("fsdp", "alone")])
def test_a_state_of_four_goes_on_in_two_and_in_one(tokens, tmp_path, through, first, then):
    out = tmp_path / "run"
    train_on(4, first, make(tokens), tokens, replace(STEADY, steps=3), out)
    assert (out / "state" / "state.safetensors").exists() == (first == "ddp")
    if then == "alone":
        again = dict(out=out, resume=True, backend=Alone(), show=False)
        history = train(make(tokens), tokens, STEADY, **again).history
    else: history = train_on(2, then, make(tokens), tokens, STEADY, out, resume=True)[0].history
    assert losses(history) == pytest.approx(losses(through), abs=2e-5)
    assert history[-1]["val_loss"] == pytest.approx(through[-1]["val_loss"], abs=2e-5)
    left, = (path.name for path in (out / "state").iterdir())   # what was before is gone
    assert left.partition("-")[0] == ("shards" if then in ("fsdp", "tp") else "state.safetensors")


def test_in_parts_over_the_end_of_the_text_with_parts_that_are_empty(tmp_path):
    """What resumed runs of others got wrong: batches in parts, the order of a later epoch, rates
    that follow the processes, a clipped length, slices of which a process has none, names."""
    texts = list(Tales().texts(24))
    tokens = tokenize(texts, WordTokenizer.train(texts, 2**13), progress=False)
    torch.manual_seed(0)
    shape = GPTConfig("qwen3", tokens.vocab_size, 96, 1, 2, 4, n_kv_head=2, tie_embeddings=True)
    model = GPT(shape)                   # two of three processes have the norms of two numbers
    config = replace(STEADY, steps=9, batch_size=12, accumulate=2, grad_clip=0.05, warmup=4)
    whole = train(copy.deepcopy(model), tokens, config, show=False).history
    out, how = tmp_path / "run", (tokens, replace(config, steps=4))
    train_on(3, "fsdp", model, *how, out)
    names = read_metadata(next(out.glob("state/shards-*")))
    assert {name for name in names if name.startswith("model.")} == {
        f"model.{name}" for name, _ in model.named_parameters()}
    again = train_on(3, "fsdp", model, tokens, config, out, resume=True)[0].history
    assert losses(again) == pytest.approx(losses(whole), abs=2e-5)
    for name in ("lr", "tokens"): assert [r[name] for r in again] == [r[name] for r in whole]


def read_metadata(shards):
    return scaling.HuggingFaceStorageReader(str(shards)).read_metadata().state_dict_metadata


@pytest.mark.parametrize("kind, arch, what", [("ddp", "qwen3", "batch_size is 10"),
                                              ("tp", "kv", "n_kv_head is 2")])
def test_what_does_not_divide_is_refused(tokens, kind, arch, what):
    shape = GPTConfig("qwen3", tokens.vocab_size, 96, 1, 4, 32, n_kv_head=2)
    config = replace(CONFIG, batch_size=10) if kind == "ddp" else CONFIG
    with pytest.raises(ValueError, match=what): train_on(4, kind, GPT(shape), tokens, config)


@pytest.mark.parametrize("heads, kv, ff, world, fits", [
    (12, 12, 96, 8, 6), (12, 12, 96, 5, 4), (8, 2, 24, 16, 2), (7, 7, 49, 3, 1), (12, 4, 96, 7, 4)])
def test_the_number_that_is_advised_fits_and_is_smaller(heads, kv, ff, world, fits):
    "It said `Start 12` to one who has 8."
    c = GPTConfig("qwen3", 100, 16, 1, heads, 4 * heads, n_kv_head=kv, d_ff=ff)
    assert scaling.best_world(c, world) == fits
    with pytest.raises(ValueError, match=f"Start {fits},"): scaling.check_heads(c, world)
    scaling.check_heads(c, fits)


def fails_in_one():
    if dist.get_rank() == 1: raise ValueError("a trouble of its own")
    dist.barrier()


def test_the_trouble_of_the_one_that_failed_is_told():
    "Not that the others miss it."
    with pytest.raises(ValueError, match="a trouble of its own"): launch(3, fails_in_one)
    with pytest.raises(ValueError, match="world is 0: start one process or more"):
        launch(0, fails_in_one)


def slow_export(folder, tokens):
    "Whether the model was there when each process went on."
    backend = scaling.DataParallel(CONFIG)
    model = make(tokens)
    if backend.rank == 0:
        plain = model.save_pretrained
        model.save_pretrained = lambda folder: (time.sleep(2), plain(folder))
    backend.export(model, folder)
    return (folder / "model.safetensors").exists()


def test_nobody_goes_on_while_the_first_writes_the_model(tokens, tmp_path):
    "A large one takes longer than the minute that a process waits within a step."
    assert launch(2, slow_export, tmp_path, tokens) == [True, True]


class Sick:
    "A batch that one of two processes gets its rows of breaks the loss."
    def wrap(self, model):
        inner, bad = super().wrap(model), self.tokens.batches(8, 96, 0, 1, 2)[4][0]
        def loss(x, y):
            plain = inner(x, y)
            return plain * float("nan") if torch.equal(x, bad) else plain
        return loss


def sick_run(kind, tokens, out):
    backend = type("Sickly", (Sick, scaling.KINDS[kind]), dict(tokens=tokens))(CONFIG)
    config = replace(CONFIG, eval_every=2)
    run = train(make(tokens), tokens, config, out=out, backend=backend, show=False)
    return run.history


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_batch_that_breaks_one_of_two_is_kept_whole_and_left_out_by_both(tokens, tmp_path, kind):
    one, two = launch(2, sick_run, kind, tokens, tmp_path / "run")
    assert losses(one) == losses(two) and [row["step"] for row in one] == list(range(7))
    kept = json.loads((tmp_path / "run" / "broken" / "000005.json").read_text())
    assert kept["rows"] == tokens.batches(8, 96, 0)[4][0].tolist()   # those of both
    assert [row["step"] for row in log_of(tmp_path / "run")] == list(range(7))


def test_a_damaged_state_is_refused(tokens, tmp_path):
    out = tmp_path / "run"
    train_on(2, "fsdp", make(tokens), tokens, replace(CONFIG, steps=1), out)
    files = sorted(out.glob("state/*/*.safetensors"))
    assert len(files) == 2 and not list(out.rglob(".metadata"))   # which would be a pickle
    longer = dict(config=CONFIG, out=out, resume=True, backend=Alone(), show=False)
    whole = files[1].read_bytes()
    for damaged in (whole[:-1], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], None):
        if damaged is None: files[1].unlink()
        else: files[1].write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"): train(make(tokens), tokens, **longer)
    files[1].write_bytes(whole)
    assert train(make(tokens), tokens, **longer).history[-1]["step"] == CONFIG.steps


def edit_info(change):
    def edit(shards):
        info = json.loads((shards / "info.json").read_text())
        (shards / "info.json").write_text(json.dumps(info | change))
    return edit


def put_in_place(make):
    "Another thing of the name of a part."
    def edit(shards):
        path = next(shards.glob("shard-00001*"))
        path.rename(shards / "kept")
        make(path)
    return edit


@pytest.mark.parametrize("edit", [
    edit_info(dict(step=3)), edit_info(dict(seconds=1e9)), edit_info(dict(files=["a"])),
    edit_info(dict(files=None)), edit_info(dict(instead=[1])), edit_info(dict(seal=None)),
    put_in_place(lambda path: os.mkfifo(path)), put_in_place(lambda path: path.mkdir()),
    put_in_place(lambda path: path.symlink_to("kept"))], ids=range(9))
def test_what_is_known_of_a_state_is_sealed_and_its_parts_are_files(tokens, tmp_path, edit):
    "A step that was changed was gone on from in silence; a pipe was waited for without end."
    out = tmp_path / "run"
    train_on(1, "fsdp", make(tokens), tokens, replace(CONFIG, steps=1), out)
    edit(next(out.glob("state/shards-*")))
    with pytest.raises(ValueError, match="the state in .*shards-.* is damaged"):
        train(make(tokens), tokens, CONFIG, out=out, resume=True, backend=Alone(), show=False)


# ---- the command line ----

def torchrun(world, folder, *more):
    "The words of a job of `world` processes."
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    job = ["-m", "gpt_nb.cli", "train", "--data", str(folder / "stories.txt"), "--tokenizer",
           "word", "--depth", "2", "--steps", "8", "--eval-every", "4", "--batch-size", "8",
           "--device", "cpu", "--precision", "float32", "--seed", "1"]
    return [sys.executable, *start, *job, *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    (folder / "stories.txt").write_text("\n\n".join(Tales().texts(60)))
    return folder


@pytest.fixture
def env(folder):
    return os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder),
                         "PYTHONPATH": str(Path(__file__).parent.parent)}


def run_job(words, env, **more):
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=600, **more)


def log_of(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_command_is_the_same_for_many(folder, env):
    alone = torchrun(1, folder, "--out", str(folder / "one"))
    done = run_job([sys.executable, *alone[alone.index("-m", 2):]], env)
    assert not done.returncode, done.stderr
    many = run_job(torchrun(2, folder, "--out", str(folder / "two"), "--parallel", "fsdp"), env)
    assert not many.returncode, many.stderr
    assert many.stdout.count("holds the run") == 1   # the first speaks for all
    for words in ("this run will take about ", " MB of memory in each of 2 processes, ",
                  "counted for each process: parameters ", "against what was said: took "):
        assert many.stderr.count(words) == 1, many.stderr
    one, two = (log_of(folder / name) for name in ("one", "two"))
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for name in ("loss", "val_loss"):
        pairs = [(a[name], b[name]) for a, b in zip(one, two) if a[name] is not None]
        assert all(a == pytest.approx(b, abs=2e-5) for a, b in pairs)
    assert sorted(p.name for p in (folder / "one").iterdir()) == sorted(
        p.name for p in (folder / "two").iterdir())
    a, b = (GPT.from_pretrained(folder / name) for name in ("one", "two"))
    for p, q in zip(a.parameters(), b.parameters()):
        torch.testing.assert_close(p, q, atol=1e-4, rtol=0)


def asked(rank, port, words):
    "What one of two processes of a job says on stdout."
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
                       MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    with contextlib.redirect_stdout(io.StringIO()) as said: code = cli.run_app(words)
    return code, said.getvalue()


def test_several_processes_say_what_a_run_will_take_and_write_nothing(folder):
    words = torchrun(2, folder, "--out", str(folder / "asked"), "--parallel", "tp", "--estimate")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context) as pool:
        jobs = [pool.submit(asked, rank, port, words[words.index("train"):]) for rank in range(2)]
        (code, said), other = (job.result(timeout=300) for job in jobs)
    assert code == 0 and other == (0, "") and not (folder / "asked").exists()
    first, second = said.splitlines()
    assert first.startswith("about ") and "in each of 2 processes" in first
    assert second.startswith("counted for each process: parameters ") and "sent" in second


def test_a_killed_process_ends_all_and_fewer_go_on(folder, env):
    out = folder / "killed"
    words = torchrun(4, folder, "--out", str(out), "--parallel", "fsdp")
    words[words.index("--steps") + 1] = "400"
    job = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until = time.monotonic() + 500
    while not list(out.glob("state/shards-*")) and job.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    os.kill(int(children[2]), signal.SIGKILL)
    start = time.monotonic()
    said = job.communicate(timeout=120)[1].decode()
    assert job.returncode and time.monotonic() - start < 60, said
    for child in children:   # nobody is left behind
        assert not Path(f"/proc/{child}").exists()
    saved = max(row["step"] for row in log_of(out))
    again = torchrun(2, folder, "--out", str(out), "--parallel", "fsdp", "--resume")
    again[again.index("--steps") + 1] = str(saved + 8)
    done = run_job(again, env)
    assert not done.returncode, done.stderr
    steps = [row["step"] for row in log_of(out)]
    assert steps == sorted(set(steps)) and steps[-1] == saved + 8


@pytest.mark.parametrize("kind, number", [("fsdp", signal.SIGTERM), ("ddp", signal.SIGINT)])
def test_a_job_that_is_asked_to_stop_saves_and_goes_on(folder, env, kind, number):
    "SIGTERM goes to torchrun, Ctrl-C at a terminal to it and to all that it has started."
    out = folder / f"asked-{kind}"
    words = torchrun(2, folder, "--out", str(out), "--parallel", kind)
    words[words.index("--steps") + 1] = "4000"
    job = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                           text=True, start_new_session=True)
    until = time.monotonic() + 300
    while not list(out.glob("state/s*")) and job.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    if number == signal.SIGINT: os.killpg(job.pid, number)
    else: os.kill(job.pid, number)
    said = job.communicate(timeout=120)[1]
    assert f"Go on with: torchrun ... -m gpt_nb.cli train --out {out} --parallel {kind}" in said
    assert not (out / ".lock").exists()
    if kind == "ddp": return   # how it goes on was seen already
    stopped = int(said.partition("stopped after step ")[2].partition(".")[0])
    again = torchrun(2, folder, "--out", str(out), "--parallel", kind, "--resume")
    again[again.index("--steps") + 1] = str(stopped + 4)
    done = run_job(again, env)
    assert not done.returncode, done.stderr
    steps = [row["step"] for row in log_of(out)]
    assert steps == sorted(set(steps)) and steps[-1] == stopped + 4


@pytest.mark.parametrize("more, said", [
    (["--parallel", "ddp"], "torchrun --nproc-per-node"),
    (["--parallel", "rings"], "ddp, fsdp, tp"),
    (["--recompute"], "--parallel"), (["--parallel", "ddp", "--tune", "2"], "exclude each other")])
def test_bad_input_is_one_line_and_code_2(folder, capsys, more, said):
    words = torchrun(1, folder, "--out", str(folder / "bad"), *more)
    assert cli.run_app(words[words.index("train"):]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0]
    assert not (folder / "bad").exists()


def test_an_address_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(scaling, "PATIENCE", timedelta(seconds=1))
    for name, value in dict(RANK="1", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                            MASTER_PORT="1").items(): monkeypatch.setenv(name, value)
    with pytest.raises(OSError, match=r"process 1 of 2 .* 127\.0\.0\.1:1 within 1 s"):
        scaling.join("ddp", "cpu")


def test_two_machines_meet_over_an_address(folder, env):
    "Two network namespaces, joined by a wire of their own."
    made = [["ip", "netns", "add", "gptnb-a"], ["ip", "netns", "add", "gptnb-b"],
            ["ip", "link", "add", "va", "netns", "gptnb-a", "type", "veth", "peer", "name", "vb",
             "netns", "gptnb-b"]]
    for side, address in (("a", "10.77.0.1/24"), ("b", "10.77.0.2/24")):
        inside = ["ip", "-n", f"gptnb-{side}"]
        made += [[*inside, "addr", "add", address, "dev", f"v{side}"],
                 [*inside, "link", "set", f"v{side}", "up"], [*inside, "link", "set", "lo", "up"]]
    try:
        for words in made:
            try: done = subprocess.run(words, capture_output=True, text=True)
            except OSError as e: pytest.skip(f"no network namespaces here: {e}")
            if done.returncode: pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
        out, jobs = folder / "far", []
        words = torchrun(1, folder, "--out", str(out), "--parallel", "ddp")
        words.remove("--standalone")
        for rank, side in enumerate("ab"):
            far = ["--nnodes", "2", "--node-rank", str(rank), "--master-addr", "10.77.0.1",
                   "--master-port", "29511"]
            job = ["ip", "netns", "exec", f"gptnb-{side}", *words[:3], *far, *words[3:]]
            jobs.append(subprocess.Popen(job, env=env | {"GLOO_SOCKET_IFNAME": f"v{side}"},
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        said = [job.communicate(timeout=500) for job in jobs]
        assert not any(job.returncode for job in jobs), said
        assert log_of(out)[-1]["step"] == 8
    finally:
        for side in "ab":
            subprocess.run(["ip", "netns", "del", f"gptnb-{side}"], capture_output=True)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "tp"])
def test_two_gpus_train_the_model_of_one(folder, env, kind):
    out = folder / f"gpu-{kind}"
    words = torchrun(2, folder, "--out", str(out), "--parallel", kind, "--recompute")
    words[words.index("--device") + 1] = "cuda"
    done = run_job(words, env)
    assert not done.returncode, done.stderr
    alone = torchrun(1, folder, "--out", str(folder / f"gpu-one-{kind}"))
    alone[alone.index("--device") + 1] = "cuda"
    done = run_job([sys.executable, *alone[alone.index("-m", 2):]], env)
    assert not done.returncode, done.stderr
    last, want = (log_of(path)[-1]["val_loss"] for path in (out, folder / f"gpu-one-{kind}"))
    assert last == pytest.approx(want, abs=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "tp"])
def test_one_gpu_in_16_bits_learns(folder, env, kind):
    out = folder / f"half-{kind}"
    words = torchrun(1, folder, "--out", str(out), "--parallel", kind, "--recompute")
    words[words.index("--device") + 1] = "cuda"
    words[words.index("--precision") + 1] = "bfloat16"
    done = run_job(words, env)
    assert not done.returncode, done.stderr
    rows = log_of(out)
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
