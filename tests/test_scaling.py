"""Several processes train the model that one trains: shown on the CPU with gloo."""
import json
import os
import signal
import subprocess
import sys
import time
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
from gpt_nb.training import TrainConfig, train

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


@pytest.mark.parametrize("kind, arch, what", [("ddp", "qwen3", "batch_size is 10"),
                                              ("tp", "kv", "n_kv_head is 2")])
def test_what_does_not_divide_is_refused(tokens, kind, arch, what):
    shape = GPTConfig("qwen3", tokens.vocab_size, 96, 1, 4, 32, n_kv_head=2)
    config = replace(CONFIG, batch_size=10) if kind == "ddp" else CONFIG
    with pytest.raises(ValueError, match=what): train_on(4, kind, GPT(shape), tokens, config)


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
