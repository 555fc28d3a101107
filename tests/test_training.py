"The training loop: equal to torch's own optimizers, exact after any stop, clear about bad input."
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gpt_nb.data import Tokens
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.tokenizer import CharTokenizer
from gpt_nb.training import (
    Machine, Muon, Progress, Run, RunFolder, Single, State, TrainConfig, Trainer, Validation,
    is_due, lr_scale, make_optimizers, orthogonalize, orthogonalize_all, plot_runs, train,
    validation_loss,
)

V, END = 32, 31


def make_tokens(n_documents=200, seed=0, longest=14):
    "Counting songs: each goes up by one from a random start, so there is something to learn."
    rng = np.random.default_rng(seed)
    def stream(n):
        starts, lengths = rng.integers(0, V - 1, n), rng.integers(3, longest, n)
        songs = [np.arange(a, a + k) % (V - 1) for a, k in zip(starts, lengths)]
        ended = [np.append(song, END) for song in songs]
        return np.concatenate([np.array([END]), *ended]).astype(np.uint16)
    return Tokens(stream(n_documents), stream(40), END, V, folder=None)


def make_model(seed=0, arch="qwen3", **changes):
    torch.manual_seed(seed)
    sizes = dict(vocab_size=V, context=16, n_layer=2, n_head=2, d_model=16)
    return GPT(GPTConfig(**dict(arch=arch) | sizes | changes))


TOKENS = make_tokens()
CONFIG = TrainConfig(steps=20, batch_size=8, eval_every=5, log_every=2, warmup=4, device="cpu",
                     seed=3)


def go(out=None, config=CONFIG, model=None, tokens=TOKENS, **more):
    return train(model or make_model(), tokens, config, out=out, show=False, **more)


class Hook(Single):
    "A backend that lets a test act within an update."
    def __init__(self, step, action): self.step, self.action, self.calls = step, action, 0

    def wrap(self, model):
        def loss(x, y):
            self.calls += 1
            result = model.loss(x, y)
            return self.action(result) if self.calls == self.step else result
        return loss


def interrupt(loss):
    os.kill(os.getpid(), signal.SIGINT)
    return loss


def state_of(folder):
    "All tensors and numbers of a saved state, without the times."
    tensors, info = Single().load(Path(folder) / "state")
    del tensors["log"]   # it holds the speeds
    return tensors, {k: v for k, v in info.items() if k != "seconds"}


def log_of(folder):
    "Its rows, without the speed."
    rows = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]


def weights_of(folder): return (Path(folder) / "model.safetensors").read_bytes()


def assert_same(a, b):
    (ta, ia), (tb, ib) = state_of(a), state_of(b)
    assert ia == ib and ta.keys() == tb.keys()
    different = [k for k in ta if not torch.equal(ta[k], tb[k])]
    assert not different, different
    assert log_of(a) == log_of(b)
    assert weights_of(a) == weights_of(b)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "An uninterrupted run."
    out = tmp_path_factory.mktemp("runs") / "whole"
    go(out)
    return out


# Muon, schedule, config

@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_muon_is_torch_muon(weight_decay):
    torch.manual_seed(0)
    shapes = [(8, 8), (24, 8), (8, 24), (1, 5), (5, 1)]
    start = [torch.randn(s) for s in shapes]
    ours, theirs = ([torch.nn.Parameter(w.clone()) for w in start] for _ in range(2))
    a = Muon(ours, lr=0.03, weight_decay=weight_decay)
    b = torch.optim.Muon(theirs, lr=0.03, weight_decay=weight_decay)
    for step in range(60):
        for p, q in zip(ours, theirs):
            p.grad = torch.randn(p.shape) * 10.0 ** (step % 5 - 2)
            q.grad = p.grad.clone()
        for o in (a, b): o.param_groups[0]["lr"] = 0.03 * (1 - step / 60)
        a.step(), b.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs))


def test_muon_takes_matrices_only_and_skips_what_has_no_gradient():
    with pytest.raises(ValueError, match="matrices"): Muon([torch.nn.Parameter(torch.zeros(3))])
    p = torch.nn.Parameter(torch.ones(2, 2))
    Muon([p]).step()
    assert torch.equal(p, torch.ones(2, 2))


@pytest.mark.parametrize("shape", [(16, 16), (40, 12), (12, 40)])
def test_orthogonalize_brings_singular_values_near_one(shape):
    torch.manual_seed(1)
    G = torch.randn(shape)
    values = torch.linalg.svdvals(orthogonalize(G, torch.float32))
    assert 0.6 < values.median() < 1.25 and values.max() < 1.3
    assert not orthogonalize(torch.zeros(shape)).any()


def test_every_parameter_is_trained_by_one_optimizer():
    for arch in ("qwen3", "gpt2"):
        for tie in (True, False):
            model = make_model(arch=arch, tie_embeddings=tie)
            adamw, muon = make_optimizers(model, CONFIG)
            held = [p for o in (adamw, muon) for g in o.param_groups for p in g["params"]]
            assert len(held) == len({id(p) for p in held}) == len(list(model.parameters()))
            matrices = {id(p) for n, p in model.named_parameters() if n.endswith("proj.weight")}
            assert {id(p) for p in muon.param_groups[0]["params"]} == matrices
            assert len(make_optimizers(model, replace(CONFIG, optimizer="adamw"))) == 1


def test_lr_scale_goes_up_stays_and_falls():
    scales = [lr_scale(s, s / 100, warmup=10, decay=0.5, final_lr=0.1) for s in range(101)]
    assert scales[0] == 0.1 and scales[9] == scales[50] == 1.0 and abs(scales[100] - 0.1) < 1e-12
    assert all(a >= b for a, b in zip(scales[9:], scales[10:]))
    assert lr_scale(5, 0.9, warmup=0, decay=0.0) == 1.0


def test_cosine_falls_along_half_a_wave():
    how = dict(warmup=10, decay=0.8, final_lr=0.2)
    cosine = [lr_scale(s, s / 100, **how, schedule="cosine") for s in range(101)]
    linear = [lr_scale(s, s / 100, **how) for s in range(101)]
    assert cosine[:21] == linear[:21]                                    # up and level are the same
    for s in range(20, 101):
        wave = (1 + math.cos(math.pi * (s - 20) / 80)) / 2
        assert cosine[s] == pytest.approx(0.2 + 0.8 * wave)
    assert cosine[40] > linear[40] + 0.05 and cosine[80] < linear[80] - 0.05
    assert cosine[60] == pytest.approx(linear[60])


def test_cosine_equals_torchs_schedule():
    p = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([p], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=0.1)
    for s in range(50):
        ours = lr_scale(s, s / 50, warmup=0, decay=1.0, final_lr=0.1, schedule="cosine")
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step(), theirs.step()


def test_the_loop_follows_the_schedule_that_was_chosen():
    rates = {}
    for schedule in ("linear", "cosine"):
        run = go(config=replace(CONFIG, schedule=schedule, log_every=1, decay=1.0, warmup=0))
        rates[schedule] = [row["lr"] for row in run.history[1:]]
    assert rates["linear"] == pytest.approx([CONFIG.lr * (1 - s / 20) for s in range(20)])
    waves = [(1 + math.cos(math.pi * s / 20)) / 2 for s in range(20)]
    assert rates["cosine"] == pytest.approx([CONFIG.lr * wave for wave in waves])


@pytest.mark.parametrize("wrong, words", [
    (dict(steps=None), "neither steps nor minutes"),
    (dict(steps=0), "steps is 0"),
    (dict(steps=1.5), "steps is 1.5: .*valid integer"),
    (dict(steps=True), "steps"),
    (dict(minutes=-1), "minutes"),
    (dict(minutes=0), "minutes"),
    (dict(batch_size=0), "batch_size"),
    (dict(accumulate=3), "does not divide"),
    (dict(lr=-1.0), "lr"),
    (dict(lr=math.nan), "lr is nan"),
    (dict(muon_lr="high"), "muon_lr"),
    (dict(decay=2), "decay"),
    (dict(betas=(0.9, 1.0)), "betas"),
    (dict(optimizer="sgd"), "optimizer is 'sgd'"),
    (dict(precision="int8"), "precision"),
    (dict(compile="yes"), "compile"),
    (dict(seed=-1), "seed"),
    (dict(grad_clip=0), "grad_clip"),
    (dict(eval_every=0), "eval_every"),
    (dict(betas=0.9), "betas"),
    (dict(schedule="step"), "schedule is 'step'.*linear.*cosine"),
    (dict(keep=(0,)), "keep"),
    (dict(keep=[5, True]), "keep"),
    (dict(keep=5), "keep"),
    (dict(warmup=-1), "warmup"),
    (dict(seed=2**63), "seed"),
    (dict(lr=math.inf), "lr"),
    (dict(final_lr=1.5), "final_lr"),
])
def test_config_names_the_field_that_cannot_be(wrong, words):
    with pytest.raises(ValueError, match=words): TrainConfig(**{**dict(steps=10), **wrong})


def test_config_goes_through_json():
    assert TrainConfig.from_dict(json.loads(json.dumps(asdict(CONFIG)))) == CONFIG
    with pytest.raises(ValueError, match="unknown settings step"):
        TrainConfig.from_dict(dict(step=3))
    read = TrainConfig(steps=3, betas=[0.8, 0.9], keep=[1, 2])   # as JSON has them
    assert read.betas == (0.8, 0.9) and read.keep == (1, 2) and hash(read.keep)


# losses and gradients

def test_validation_loss_counts_each_token_once():
    model, ids = make_model(), TOKENS.val
    model.train()
    total = count = 0
    ends = np.flatnonzero(ids == END)
    for a, b in zip(ends, ends[1:]):   # each document by itself
        row = torch.from_numpy(ids[a:b + 1].astype(np.int64))
        with torch.no_grad(): logits = model(row[None, :-1])[0]
        total += F.cross_entropy(logits, row[1:], reduction="sum").item()
        count += b - a
    assert count == len(ids) - 1
    for batch_size in (1, 7, 64):
        assert abs(validation_loss(model, ids, END, batch_size) - total / count) < 1e-5
    assert model.training
    part = validation_loss(model, ids, END, 4, max_tokens=100)
    assert part != pytest.approx(total / count, abs=1e-9) and abs(part - total / count) < 0.2


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_accumulation_changes_nothing(optimizer):
    config = replace(CONFIG, steps=5, optimizer=optimizer)
    first, *others = [go(config=replace(config, accumulate=a)) for a in (1, 2, 4, 8)]
    for run in others:
        for p, q in zip(first.model.parameters(), run.model.parameters()):
            assert (p - q).abs().max() < 2e-4


def test_many_matrices_are_orthogonalized_as_each_alone():
    torch.manual_seed(0)
    shapes = [(8, 8), (24, 8), (8, 8), (8, 24), (24, 8), (1, 5), (5, 1)]
    matrices = [torch.randn(s) for s in shapes] + [torch.zeros(8, 8)]
    for dtype in (torch.float32, torch.bfloat16):
        for G, X in zip(matrices, orthogonalize_all(matrices, dtype), strict=True):
            assert X.shape == G.shape and X.dtype == dtype
            torch.testing.assert_close(X, orthogonalize(G, dtype), rtol=0, atol=0.01)


def test_muon_works_in_16_bits_where_they_are_asked_for_and_multiplied(monkeypatch):
    import gpt_nb.training as module
    for has, precision, kind in ((True, "bfloat16", torch.bfloat16), (True, "auto", torch.float32),
                                 (False, "bfloat16", torch.float32)):
        monkeypatch.setattr(module, "multiplies_bfloat16", lambda device, has=has: has)
        muon = make_optimizers(make_model(), replace(CONFIG, precision=precision))[1]
        assert muon.param_groups[0]["dtype"] == kind


def test_the_same_seed_gives_the_same_bits_and_another_another(whole, tmp_path):
    go(tmp_path / "again")
    assert_same(whole, tmp_path / "again")
    go(tmp_path / "other", replace(CONFIG, seed=4))
    assert weights_of(tmp_path / "other") != weights_of(whole)


def test_it_learns_and_writes_what_it_says(whole):
    run = Run.open(whole)
    assert run.config == CONFIG and run.tok is None and not run.model.training
    assert [r["step"] for r in run.history if r["val_loss"] is not None] == [0, 5, 10, 15, 20]
    assert [r["step"] for r in run.history] == [0, 2, 4, 5, 6, 8, 10, 12, 14, 15, 16, 18, 20]
    before = run.history[0]["val_loss"]
    assert abs(before - math.log(V)) < 0.3 and run.val_loss < before - 0.4
    assert run.val_loss == pytest.approx(validation_loss(run.model, TOKENS.val, END), abs=1e-5)
    assert {p.name for p in whole.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "training.json", "log.jsonl",
        "tensorboard", "state"}
    assert run.plot().axes[0].lines


def test_tensorboard_reads_the_events(whole):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator",
                                 reason="TensorBoard is not installed")
    assert [p.name for p in (whole / "tensorboard").iterdir()] == ["events.out.tfevents.0000"]
    events = reader.EventAccumulator(str(whole / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("val_loss")] == [0, 5, 10, 15, 20]


def test_the_random_state_outside_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = make_model()
    torch.set_rng_state(before)
    go(config=replace(CONFIG, steps=1), model=model)
    assert torch.equal(torch.get_rng_state(), before)


# stopping and resuming

@pytest.mark.parametrize("step", [1, 7, 10, 20])
def test_ctrl_c_saves_and_resume_is_exact(whole, tmp_path, step):
    handler = signal.getsignal(signal.SIGINT)
    if step < 20:
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step}"):
            go(tmp_path, backend=Hook(step, interrupt))
    else: go(tmp_path, backend=Hook(10**9, interrupt))
    assert signal.getsignal(signal.SIGINT) is handler
    assert Run.open(tmp_path).model.config.vocab_size == V
    run = go(tmp_path, model=make_model(seed=99), resume=True)
    assert_same(whole, tmp_path)
    assert run.val_loss == Run.open(whole).val_loss


KILLED = """
import faulthandler, os, signal, sys
sys.path.insert(0, {here!r})
import torch
torch.set_num_threads(1)   # and nothing is computed before a fork: a child has no other thread
import tensorboard.compat.proto.event_pb2, tensorboard.summary.writer.record_writer
import torch._dynamo       # as the first optimizer does: children need not import again
import test_training as t
rename, out = os.replace, t.Path({out!r})
assert os.listdir("/proc/self/task") == [str(os.getpid())]
for kill_at in [1, 2, 3, 4, 5, 6, 3, 10**9]:
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(90, exit=True)   # where it hangs, if it does
        done = 0
        def replace(a, b):
            global done
            done += 1
            if done == kill_at:
                if kill_at % 2: rename(a, b)
                os.kill(os.getpid(), signal.SIGKILL)
            rename(a, b)
        os.replace = replace
        has_state = (out / "state" / "state.safetensors").exists()
        t.go(out, model=t.make_model(seed=kill_at % 1000) if has_state else None,
             resume=(out / "training.json").exists())
        os._exit(0)   # 0: finished before the kill
    status = os.waitpid(child, 0)[1]
    print(kill_at, status, flush=True)
"""


def test_sigkill_at_any_rename_leaves_a_good_state(whole, tmp_path):
    code = KILLED.format(here=str(Path(__file__).parent), out=str(tmp_path / "run"))
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env,
                          timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count(" 9\n") == 7, done.stdout
    assert_same(whole, tmp_path / "run")


@pytest.mark.parametrize("arch", ["gpt2", "qwen2"])
def test_training_goes_on_from_an_opened_checkpoint(arch, tmp_path):
    "Also where its matrices are transposed views of the file, as those of GPT-2 are."
    make_model(arch=arch).save_pretrained(tmp_path / "theirs")
    opened = lambda: GPT.from_pretrained(tmp_path / "theirs")
    whole = go(tmp_path / "whole", replace(CONFIG, steps=6, eval_every=3), opened())
    assert whole.val_loss < go(tmp_path / "none", replace(CONFIG, steps=1), opened()).val_loss
    again = go(tmp_path / "whole", replace(CONFIG, steps=6, eval_every=3), opened(), resume=True)
    assert again.val_loss == whole.val_loss


def test_a_finished_run_resumes_to_itself(whole, tmp_path):
    before = {p: p.read_bytes() for p in whole.iterdir() if p.is_file()}
    run = go(whole, resume=True)
    assert run.val_loss == Run.open(whole).val_loss
    assert {p: p.read_bytes() for p in whole.iterdir() if p.is_file()} == before


def test_nan_is_an_error_that_keeps_the_last_good_state(tmp_path):
    class Nan(Hook):
        def wrap(self, model): return lambda x, y: self.action(model.loss(x, y))
    calls = []
    def broken(loss):
        calls.append(loss)
        return loss * math.nan if len(calls) >= 8 else loss   # also after it went back once
    with pytest.raises(FloatingPointError, match="step 6.*state of step 5 is saved"):
        go(tmp_path, backend=Nan(0, broken))
    tensors, info = state_of(tmp_path)
    assert info["step"] == 5 and all(t.isfinite().all() for t in tensors.values())
    with pytest.raises(FloatingPointError, match="lower rates"): go(config=replace(CONFIG, lr=1e30))


def files_of(folder):
    files = [p for p in folder.rglob("*") if p.is_file() and "tensorboard" not in str(p)]
    return {p: p.read_bytes() for p in files}


def test_no_space_left_keeps_what_is_there(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt): go(tmp_path, backend=Hook(7, interrupt))
    before = files_of(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # a real refusal by the system: no file may be longer
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    says = "step 10 could not be written.*state of step 7 is saved"
    try:
        with pytest.raises(OSError, match=says): go(tmp_path, resume=True)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = files_of(tmp_path)
    assert after.keys() == before.keys()
    assert all(after[p] == before[p] for p in after if p.name != "log.jsonl")
    go(tmp_path, resume=True)


def test_minutes_end_the_run_and_the_rate_follows_the_clock():
    run = go(config=replace(CONFIG, steps=None, minutes=0.02, warmup=1, log_every=1))
    assert 1.2 <= run.seconds < 6 and run.history[-1]["lr"] < 0.2 * CONFIG.lr
    run = go(config=replace(CONFIG, steps=3, minutes=60.0))
    assert run.history[-1]["step"] == 3


PRESSED = """
import faulthandler, os, signal, sys
from gpt_nb.training import finish_step
faulthandler.dump_traceback_later(60, exit=True)   # where it hangs, if it does
def press(): os.kill(os.getpid(), signal.SIGINT)
for nth in range(1, 9):
    lines = []
    def trace(frame, event, _):
        lines.append(event)
        if event == "line" and lines.count("line") == nth: press()
        return trace
    try:
        with finish_step():
            sys.settrace(trace)   # from the next function on
            press()
    except KeyboardInterrupt: pass
    finally: sys.settrace(None)
os._exit(7)
"""


def test_a_second_press_at_any_line_that_notes_the_first_does_not_hang():
    done = subprocess.run([sys.executable, "-c", PRESSED], capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 7, done.stderr[-2000:]


def test_no_other_thread_stands_beside_the_training(tmp_path):
    "One that a stop or a fork could leave waiting for a lock."
    before, seen = set(threading.enumerate()), []
    def look(loss):
        seen.extend(set(threading.enumerate()) - before)
        return loss
    train(make_model(), TOKENS, CONFIG, out=tmp_path, backend=Hook(15, look))
    assert (tmp_path / "tensorboard").is_dir() and not seen


def test_outside_the_main_thread_it_trains_without_listening_to_ctrl_c():
    runs = []
    thread = threading.Thread(target=lambda: runs.append(go(config=replace(CONFIG, steps=2))))
    thread.start(), thread.join()
    assert runs[0].val_loss


def test_the_bar_is_on_stderr(capsys):
    train(make_model(), TOKENS, replace(CONFIG, steps=4), floor=1.5)
    out, err = capsys.readouterr()
    assert out == "" and "tokens/s" in err and "best possible 1.500" in err
    assert "thread" in err and "<" in err
    go(config=replace(CONFIG, steps=2))
    assert capsys.readouterr() == ("", "")


# training longer

HALF, STEADY = replace(CONFIG, steps=10), replace(CONFIG, decay=0.0)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_at_a_level_rate_two_sittings_are_one_run(tmp_path, optimizer):
    config = replace(STEADY, optimizer=optimizer)
    go(tmp_path / "one", config)
    go(tmp_path / "two", replace(config, steps=10))
    opened = Run.open(tmp_path / "two")
    go(tmp_path / "two", replace(opened.config, steps=20), opened.model, resume=True)
    assert state_of(tmp_path / "one")[1] == state_of(tmp_path / "two")[1]
    assert weights_of(tmp_path / "one") == weights_of(tmp_path / "two")
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    differ = [a["step"] for a, b in zip(one, two, strict=True) if a != b]
    assert differ in ([], [10])   # where the first sitting ended, all validation text was read
    assert Run.open(tmp_path / "two").config.steps == 20


def test_with_a_decay_it_differs_by_the_rates_of_the_first_sitting(whole, tmp_path):
    go(tmp_path, HALF)
    before = log_of(tmp_path)
    run = go(tmp_path, CONFIG, resume=True)
    after, one = log_of(tmp_path), log_of(whole)
    assert after[:len(before)] == before and [r["step"] for r in after] == [r["step"] for r in one]
    assert before[-1]["lr"] < 0.2 * CONFIG.lr        # it had fallen
    late = [(a["lr"], b["lr"]) for a, b in zip(after, one) if a["step"] > 10]
    assert all(a == b for a, b in late)              # at once that of the longer run
    assert [a["tokens"] for a in after] == [b["tokens"] for b in one]   # the same batches in order
    assert weights_of(tmp_path) != weights_of(whole)
    assert abs(run.val_loss - Run.open(whole).val_loss) < 0.3
    assert run.val_loss < before[-1]["val_loss"] - 0.1


def test_a_stopped_run_may_be_made_longer_or_shorter_and_killed_again(tmp_path):
    with pytest.raises(KeyboardInterrupt): go(tmp_path / "a", HALF, backend=Hook(7, interrupt))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    go(tmp_path / "a", CONFIG, resume=True)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "b", CONFIG, resume=True, backend=Hook(6, interrupt))
    assert Run.open(tmp_path / "b").config.steps == 20
    go(tmp_path / "b", CONFIG, resume=True)
    assert_same(tmp_path / "a", tmp_path / "b")
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "c", replace(CONFIG, steps=90), resume=True, backend=Hook(5, interrupt))
    run = go(tmp_path / "c", replace(CONFIG, steps=30), resume=True)   # 25 are made: five more
    assert run.history[-1]["step"] == 30 and run.history[-1]["lr"] < 0.1 * CONFIG.lr


def test_longer_by_minutes_counts_all_sittings(tmp_path):
    go(tmp_path / "before", replace(CONFIG, steps=1))   # what torch loads once is not timed
    config = replace(CONFIG, steps=None, minutes=0.01, warmup=0, eval_every=None, log_every=1)
    tmp_path = tmp_path / "run"
    first = go(tmp_path, config)
    rows, seconds = log_of(tmp_path), first.seconds
    assert 0.6 <= seconds < 5 and rows[-1]["lr"] < 0.3 * CONFIG.lr
    minutes = (seconds + 1.0) / 60
    run = go(tmp_path, replace(config, minutes=minutes), resume=True)
    after = log_of(tmp_path)
    assert after[:len(rows)] == rows and len(after) > len(rows)
    share = min(1, (1 - seconds / (60 * minutes)) / config.decay)   # by the new clock
    assert after[len(rows)]["lr"] == pytest.approx(share * config.lr, rel=0.1)
    assert 60 * minutes <= run.seconds < 60 * minutes + 5 and after[-1]["lr"] < 0.3 * CONFIG.lr
    run = go(tmp_path, replace(config, minutes=None, steps=after[-1]["step"] + 3), resume=True)
    assert run.history[-1]["step"] == after[-1]["step"] + 3           # from minutes to steps


def test_a_clock_that_runs_out_on_resuming_still_ends_with_an_evaluation(tmp_path):
    config = replace(CONFIG, steps=None, minutes=60.0)
    with pytest.raises(KeyboardInterrupt): go(tmp_path, config, backend=Hook(7, interrupt))
    tensors, info = Single().load(tmp_path / "state")
    Single().save(tmp_path / "state", tensors, info | dict(seconds=3601.0))   # for an evaluation
    run = go(tmp_path, config, resume=True)
    assert run.history[-1]["step"] == 8 and run.history[-1]["val_loss"] is not None
    assert run.val_loss == pytest.approx(validation_loss(run.model, TOKENS.val, END), abs=1e-5)


@pytest.mark.parametrize("changes, words", [
    (dict(steps=20, minutes=9.0), "steps is 20, but 20 are made: .*give more"),
    (dict(steps=19), "steps is 19, but 20 are made: to train it longer give more than that"),
    (dict(steps=None, minutes=1e-4), "minutes is 0.0001, but [0-9.]+ are over"),
    (dict(steps=5, minutes=1e-4), "steps is 5, but 20 are made and minutes is"),
    (dict(steps=40, lr=0.1), "config lr was 0.01 and is 0.1"),
    (dict(steps=40, decay=0.1), "config decay was 0.7 and is 0.1"),
    (dict(steps=40, precision="bfloat16"), "config precision was"),
])
def test_what_does_not_make_a_run_longer_is_refused(whole, changes, words):
    before = files_of(whole)
    with pytest.raises(ValueError, match=words): go(whole, replace(CONFIG, **changes), resume=True)
    assert files_of(whole) == before


def test_what_changes_nothing_that_is_learned_may_differ(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt): go(tmp_path / "run", backend=Hook(7, interrupt))
    other = replace(CONFIG, eval_every=3, eval_tokens=50, log_every=1, keep=(9,), accumulate=2,
                    compile=False)
    go(tmp_path / "run", other, resume=True)
    a, b = Run.open(tmp_path / "run"), Run.open(whole)
    for p, q in zip(a.model.parameters(), b.model.parameters()): assert (p - q).abs().max() < 1e-4
    assert a.config == other and (tmp_path / "run" / "checkpoints" / "000009").is_dir()


def test_a_finished_run_says_so(whole, capsys):
    train(make_model(), TOKENS, CONFIG, out=whole, resume=True)
    out, err = capsys.readouterr()
    assert out == "" and "is finished (20 updates" in err and "more steps or minutes" in err


# about twenty evaluations

def checks_of(run): return [row["step"] for row in run.history if row["val_loss"] is not None]


@pytest.mark.parametrize("steps, due", [
    (1, [0, 1]), (7, list(range(8))), (40, list(range(0, 41, 2))), (60, list(range(0, 61, 3))),
])
def test_a_run_is_evaluated_about_twenty_times(steps, due):
    run = go(config=replace(CONFIG, steps=steps, eval_every=None, log_every=100))
    assert checks_of(run) == due


def test_the_checks_do_not_hang_on_where_a_run_was_stopped(tmp_path):
    config = replace(CONFIG, eval_every=None, steps=30)
    go(tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt): go(tmp_path / "b", config, backend=Hook(7, interrupt))
    go(tmp_path / "b", config, resume=True)
    assert_same(tmp_path / "whole", tmp_path / "b")
    assert 20 <= len(checks_of(Run.open(tmp_path / "b"))) <= 21


def progress_at(config, *times):
    "The steps at which an evaluation is due if updates are over at these times."
    at, due = Progress(config, Single()), []
    for seconds in times:
        at.before, at.started = seconds, time.perf_counter()
        at.advance(10)
        if at.at_check: due.append(at.step)
    return due


def test_by_minutes_the_checks_follow_the_clock():
    config = TrainConfig(minutes=1.0)
    even = progress_at(config, *(0.35 + 0.1 * i for i in range(601)))
    assert len(even) == 20 and {b - a for a, b in zip(even, even[1:])} == {30}
    assert progress_at(config, 1, 2.9, 31, 31.5, 33.2, 61) == [3, 5, 6]   # a pause: one, not nine
    both = TrainConfig(minutes=1.0, steps=100)
    assert progress_at(both, *(0.01 * i for i in range(101))) == list(range(5, 101, 5))


@pytest.mark.parametrize("budget", [dict(steps=60), dict(steps=None, minutes=0.01)], ids=str)
def test_an_evaluation_of_a_short_run_reads_about_one_batch(budget):
    modes = []
    class Counting(Single):
        def wrap(self, model):
            model.register_forward_pre_hook(lambda m, _: modes.append(m.training))
            return model.loss
    tokens = make_tokens()
    tokens = replace(tokens, val=make_tokens(400).train)
    config = replace(CONFIG, eval_every=None, **budget)
    run = go(config=config, tokens=tokens, backend=Counting())
    assert sum(modes) == run.history[-1]["step"]
    sample = math.ceil(400 / math.ceil(len(tokens.val) / (8 * 16)))   # rows, of about 128 tokens
    every = 1 if config.steps else math.ceil(len(tokens.val) / run.history[-1]["tokens"])
    at_the_end = math.ceil(math.ceil(400 / every) / 8)
    assert modes.count(False) == (len(checks_of(run)) - 1) * math.ceil(sample / 8) + at_the_end


@pytest.mark.parametrize("changes, step, used, size", [
    (dict(steps=20), 5, 0.25, 128),               # a batch, though it is trained on no more
    (dict(steps=2000), 0, 0.0, 1024),             # known before it begins
    (dict(steps=2000), 700, 0.35, 1024),
    (dict(minutes=3.0), 0, 0.0, 128),             # not known yet
    (dict(minutes=3.0), 700, 0.35, 1024),         # as the pace promises
    (dict(minutes=3.0), 707, 0.35, 1024),
    (dict(minutes=3.0, steps=9), 700, 0.35, 1024),
    (dict(steps=10**6), 700, 0.0007, 16_384),
    (dict(steps=10**6, eval_every=10), 700, 0.0007, 128),
    (dict(steps=2000, eval_tokens=77), 700, 0.35, 77),
])
def test_how_much_an_evaluation_reads(changes, step, used, size):
    config = TrainConfig(batch_size=8, **changes)
    progress = Progress(config, Single())
    progress.step, progress.used = step, used
    judge = Validation(TOKENS, config, Machine(replace(config, device="cpu")), Single())
    assert judge.size(make_model(), progress) == size


@pytest.mark.parametrize("budget, every", [
    (dict(steps=10), 1), (dict(minutes=1.0), 4), (dict(minutes=1.0, steps=10), 4)], ids=str)
def test_a_run_by_the_clock_reads_at_its_end_no_more_than_it_was_trained_on(budget, every):
    tokens, model = make_tokens(), make_model()
    tokens = replace(tokens, val=make_tokens(400).train)
    config = TrainConfig(batch_size=8, device="cpu", **budget)
    judge = Validation(tokens, config, Machine(config), Single())
    progress = Progress(config, Single())
    progress.used, progress.tokens = 1, len(tokens.val) // 4 + 1
    losses = []
    for a, b in zip(*[np.flatnonzero(tokens.val == END)[i:] for i in (0, 1)]):   # each document
        x, y = (torch.from_numpy(tokens.val[a + i:b + i].astype(np.int64))[None] for i in (0, 1))
        with torch.no_grad(): losses.append((model.loss(x, y).item(), int(b - a)))
    read = sorted(losses, key=lambda pair: pair[1])[::every]        # stable: by length, then place
    expected = sum(loss * n for loss, n in read) / sum(n for _, n in read)
    assert judge(model, progress) == pytest.approx(expected, abs=1e-5)
    progress.tokens = len(tokens.val)                               # enough: all of it
    whole = sum(loss * n for loss, n in losses) / sum(n for _, n in losses)
    assert judge(model, progress) == pytest.approx(whole, abs=1e-5)


def test_a_sample_of_a_long_text_takes_little_memory_and_time():
    ids = np.arange(30_000_000, dtype=np.uint32).astype(np.uint16) % V    # 60 MB
    model, start = make_model(), time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    validation_loss(model, ids, None, batch_size=8, max_tokens=2000)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before   # kilobytes
    assert grown < 100_000 and time.perf_counter() - start < 5


def test_a_big_model_is_not_saved_all_the_time():
    config = replace(CONFIG, eval_every=None)
    trainer = Trainer(Run(make_model(), None, config, []), TOKENS, Single())
    folder, now = RunFolder(trainer), time.perf_counter()
    for cost, ago, due in ((0.0, 0, True), (0.05, 0, True), (3.0, 5, False), (3.0, 31, True)):
        folder.cost, folder.free = cost, now - ago
        assert is_due(folder) == due
    folder.cost, folder.free, trainer.progress.used = 3.0, now, 1.0
    assert is_due(folder)
    asked = Trainer(Run(make_model(), None, CONFIG, []), TOKENS, Single())
    assert is_due(RunFolder(asked))


# bad input

def test_a_launcher_without_a_backend_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="WORLD_SIZE is 4: .*without torchrun"): go(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert go(config=replace(CONFIG, steps=1), backend=Single()).val_loss
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert go(config=replace(CONFIG, steps=1)).val_loss


def test_a_folder_that_holds_a_run_is_not_touched(whole, tmp_path):
    with pytest.raises(FileExistsError, match="holds a run"): go(whole)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match="config.json"): go(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file"): go(tmp_path / "file")
    assert (tmp_path / "config.json").read_text() == "{}"
    assert (tmp_path / "file").read_text() == "mine"


def test_resume_says_what_differs(whole, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"): go(tmp_path, resume=True)
    with pytest.raises(ValueError, match="out="): go(resume=True)
    says = "config lr was 0.01 and is 0.1; config seed was 3 and is 9"
    with pytest.raises(ValueError, match=says):
        go(whole, replace(CONFIG, lr=0.1, seed=9), resume=True)
    with pytest.raises(ValueError, match="model n_layer was 2 and is 1"):
        go(whole, model=make_model(n_layer=1), resume=True)
    with pytest.raises(ValueError, match="text"): go(whole, tokens=make_tokens(seed=1), resume=True)
    other = replace(TOKENS, val=TOKENS.val[::-1].copy())   # validation, too
    with pytest.raises(ValueError, match="this is another run: text validation was [0-9]+ and is"):
        go(whole, tokens=other, resume=True)


def test_a_state_from_before_validation_text_was_noted_is_resumed(whole, tmp_path):
    old = shutil.copytree(whole, tmp_path / "old")
    tensors, info = Single().load(old / "state")
    del info["settings"]["text"]["validation"]
    Single().save(old / "state", tensors, info)
    assert go(old, resume=True).history == Run.open(whole).history


def text_of(train, val, vocab_size=V):
    return Tokens(train, val, END, vocab_size, folder=None)


def test_bad_text_is_refused():
    ids = np.arange(20, dtype=np.uint16)
    with pytest.raises(ValueError, match="8 tokens.*needs 17"): go(tokens=text_of(ids[:8], ids))
    with pytest.raises(ValueError, match="vocabulary"): go(tokens=text_of(ids + 20, ids))
    with pytest.raises(ValueError, match="vocabulary of 64, the model one of 32"):
        go(tokens=text_of(ids, ids, vocab_size=64))
    with pytest.raises(ValueError, match="tpu"): go(config=replace(CONFIG, device="tpu"))
    with pytest.raises(ValueError, match="frozen"): go(model=make_model().requires_grad_(False))
    run = go(config=replace(CONFIG, steps=2), tokens=text_of(TOKENS.train, ids[:0]))
    assert run.val_loss is None


def copy_run(whole, to):
    shutil.copytree(whole, to)
    return to


@pytest.mark.parametrize("name, missing, cut", [
    ("training.json", FileNotFoundError, ValueError),
    ("config.json", FileNotFoundError, ValueError),
    ("model.safetensors", FileNotFoundError, ValueError),
    ("log.jsonl", FileNotFoundError, None),
])
def test_missing_and_truncated_files_are_named(whole, tmp_path, name, missing, cut):
    folder = copy_run(whole, tmp_path / "run")
    full = (folder / name).read_bytes()
    (folder / name).write_bytes(full[:len(full) - 30])
    if cut:
        with pytest.raises(cut, match=name): Run.open(folder)
    else: assert len(Run.open(folder).history) == 12   # a line cut off by a kill is left out
    (folder / name).unlink()
    with pytest.raises(missing, match=name.split(".")[0]): Run.open(folder).history


def test_the_log_is_read_when_it_is_asked_for(whole, tmp_path):
    folder = copy_run(whole, tmp_path / "run")
    (folder / "log.jsonl").write_text("{\n{}\n")
    run = Run.open(folder)   # the model writes without it
    assert run.model(torch.tensor([[1, 2]])).shape == (1, 2, V)
    assert run.val_loss == Run.open(whole).val_loss
    with pytest.raises(ValueError, match="line 1 of .*log.jsonl is damaged"): run.history
    (folder / "log.jsonl").write_bytes((whole / "log.jsonl").read_bytes())
    assert run.history == Run.open(whole).history
    (folder / "log.jsonl").unlink()
    assert len(run.history) == 13   # once read, it is kept


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[1]", b"", b"\0" * 50, b'{"step": 1}',
    b'{"step": "1", "tokens": 1, "loss": 1.0, "val_loss": null, "lr": 0.1, "tokens_per_second": 9}',
    b'{"step": 1, "tokens": 1, "loss": "1", "val_loss": null, "lr": 0.1, "tokens_per_second": 9}',
], ids=str)
def test_a_line_of_the_log_that_is_none_is_named(whole, tmp_path, line, capsys):
    folder = copy_run(whole, tmp_path / "run")
    first = (whole / "log.jsonl").read_bytes().split(b"\n")[0] + b"\n"
    (folder / "log.jsonl").write_bytes(first + line + b"\n")
    says = "line 2 of .*log.jsonl is damaged.*Remove that line"
    with pytest.raises(ValueError, match=says): Run.open(folder).history
    go(folder, resume=True)   # the state holds the lines, too
    assert "was cut or damaged: written again" in capsys.readouterr().err
    assert log_of(folder) == log_of(whole)


def test_without_a_log_in_the_state_a_damaged_one_is_refused(whole, tmp_path):
    "As in runs of a time when it held none."
    folder = copy_run(whole, tmp_path / "run")
    tensors, info = Single().load(folder / "state")
    Single().save(folder / "state", {n: w for n, w in tensors.items() if n != "log"}, info)
    first = (whole / "log.jsonl").read_bytes().split(b"\n")[0] + b"\n"
    (folder / "log.jsonl").write_bytes(first + first)
    before = files_of(folder)
    says = "line 2 of .*log.jsonl is damaged.*not a later step.*Remove that line"
    with pytest.raises(ValueError, match=says): go(folder, resume=True)
    assert files_of(folder) == before
    (folder / "log.jsonl").write_bytes(first)
    assert len(go(folder, resume=True).history) == 1


def test_a_log_that_lost_its_end_does_not_change_the_loss(whole, tmp_path):
    folder = copy_run(whole, tmp_path / "run")
    (folder / "log.jsonl").write_bytes((whole / "log.jsonl").read_bytes()[:-9])
    assert go(folder, resume=True).val_loss == Run.open(whole).val_loss
    (folder / "log.jsonl").write_text("")
    assert go(folder, resume=True).val_loss == Run.open(whole).val_loss


@pytest.mark.parametrize("wrong", [
    dict(step=-5), dict(step=5.5), dict(step="5"), dict(seen=None), dict(seconds=math.nan),
    dict(seconds=-1.0),
], ids=str)
def test_a_state_that_is_nowhere_is_named(whole, tmp_path, wrong):
    folder = copy_run(whole, tmp_path / "run")
    tensors, info = Single().load(folder / "state")
    Single().save(folder / "state", tensors, info | wrong)
    says = f"the state in .*run/state is damaged.*{next(iter(wrong))} is"
    with pytest.raises(ValueError, match=says): go(folder, resume=True)


def test_a_device_of_torch_is_a_device(tmp_path):
    config = replace(CONFIG, device=torch.device("cpu"), steps=2)
    assert config == replace(CONFIG, steps=2) and config.device == "cpu"
    assert go(tmp_path / "run", config).config == Run.open(tmp_path / "run").config == config


def test_a_state_older_than_a_setting_resumes(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt): go(tmp_path, backend=Hook(7, interrupt))
    tensors, info = Single().load(tmp_path / "state")
    del info["settings"]["config"]["schedule"]
    Single().save(tmp_path / "state", tensors, info)
    with pytest.raises(ValueError, match="config schedule was 'linear' and is 'cosine'"):
        go(tmp_path, replace(CONFIG, schedule="cosine"), resume=True)
    go(tmp_path, resume=True)
    assert_same(whole, tmp_path)


def test_two_runs_stay_in_one_picture():
    import matplotlib.pyplot as plt
    good, bad = go(config=CONFIG), go(config=replace(CONFIG, lr=1e-5, muon_lr=1e-5))
    for first, second in ((good, bad), (bad, good)):
        fig, ax = plt.subplots()
        first.floor = second.floor = 0.5
        assert first.plot(ax, "first") is fig and second.plot(ax, label="second") is fig
        low, high = ax.get_ylim()
        assert all(low < run.val_loss < high for run in (good, bad)) and low < 0.5
        words = ax.get_legend_handles_labels()[1]
        assert words == ["first validation", "first training", "best possible, 0.500",
                         "second validation", "second training"]
        drawn = {line.get_label(): line.get_color() for line in ax.lines}
        assert drawn["first validation"] == drawn["first training"] != drawn["second validation"]
        plt.close(fig)


def test_many_runs_in_one_picture(tmp_path):
    with pytest.raises(ValueError, match="no runs"): plot_runs([])
    runs = [go(tmp_path / name, replace(CONFIG, lr=lr, muon_lr=lr))
            for name, lr in (("good", 0.02), ("slow", 1e-3), ("none", 0.0))]
    runs[0].floor = runs[1].floor = 0.5
    ax = plot_runs(runs).axes[0]
    named = {line.get_label(): line.get_color() for line in ax.lines
             if not line.get_label().startswith("_")}
    assert named.keys() == {"good", "slow", "none", "best possible, 0.500"}
    assert len(set(named.values())) == 4
    low, high = ax.get_ylim()
    assert all(low < run.val_loss < high for run in runs) and low < 0.5
    words = plot_runs(runs, ["a", "b", "c"]).axes[0].get_legend_handles_labels()[1]
    assert [w for w in words if len(w) == 1] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="3 runs and 2 names"): plot_runs(runs, ["a", "b"])


def test_runs_called_alike_are_told_apart(tmp_path):
    runs = [go(tmp_path / name / "run", replace(CONFIG, steps=1)) for name in "ab"]
    words = plot_runs([*runs, go(config=replace(CONFIG, steps=1))]).axes[0]
    assert words.get_legend_handles_labels()[1] == [
        str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run"), "run 3"]


def test_a_loop_of_ones_own_is_the_same_loop(whole):
    run = Run(make_model(), None, CONFIG, [])
    torch.manual_seed(CONFIG.seed)
    rows = [row for row in Trainer(run, TOKENS, Single())]
    assert len(rows) == CONFIG.steps + 1 and [row for row in rows if row] == run.history
    for p, q in zip(run.model.parameters(), Run.open(whole).model.parameters()):
        assert torch.equal(p, q)
    assert run.val_loss == Run.open(whole).val_loss


def test_a_state_puts_another_trainer_where_the_first_one_stood():
    runs = [Run(make_model(seed), None, CONFIG, []) for seed in (0, 1)]
    first, second = (Trainer(run, TOKENS, Single()) for run in runs)
    for row in first:
        if first.progress.step == 7: break
    State.of(first).put_into(second)
    for t in (first, second): t.update()
    assert first.progress.step == second.progress.step
    assert first.progress.tokens == second.progress.tokens
    assert len(second.meter.losses) == 2
    for p, q in zip(first.model.parameters(), second.model.parameters()): assert torch.equal(p, q)


def test_more_damage_is_named(whole, tmp_path):
    with pytest.raises(FileNotFoundError, match="no run folder"): Run.open(tmp_path / "nowhere")
    folder = copy_run(whole, tmp_path / "run")
    about = json.loads((folder / "training.json").read_text())
    broken = dict(options=[None, [1]], seconds=[None, "x", 10**400], val_loss=["x", [1], 10**400],
                  floor=["x"], config=[None, [], {"steps": "x"}, {"step": 1}])
    for name, values in broken.items():
        for value in values:
            (folder / "training.json").write_text(json.dumps(about | {name: value}))
            says = f"training.json is no record of a run: {name}"
            with pytest.raises(ValueError, match=says): Run.open(folder)
    (folder / "training.json").write_text("{}")
    with pytest.raises(ValueError, match="no record of a run"): Run.open(folder)
    with pytest.raises(ValueError, match="no record of a run"): go(folder, resume=True)
    (folder / "training.json").write_text(json.dumps(about))
    (folder / "log.jsonl").write_text("{\n{}\n")
    state = folder / "state" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ValueError, match="state.safetensors is damaged"): go(folder, resume=True)


# where texts begin and end

SPECIAL = SimpleNamespace(vocab_size=V, end_id=END, special_tokens={"<|end|>": END, "<|turn|>": 30})


@pytest.mark.parametrize("eos, tok, expected", [
    (None, None, END), (None, SPECIAL, END), (END, None, END),
    (5, None, END), (5, SPECIAL, END),              # the end of another tokenizer, a word in this
    (30, SPECIAL, (END, 30)),                       # the end of a chat's message stays
    ((5, 30), SPECIAL, (END, 30)),
    ((30, END), None, (30, END)),                   # of this tokenizer: nothing is changed
])
def test_a_model_trained_on_ends_its_texts_as_these_end(eos, tok, expected):
    from gpt_nb.training import with_ends
    config = make_model(bos_token_id=3, eos_token_id=eos).config
    changed = with_ends(config, END, tok)
    assert (changed.bos_token_id, changed.eos_token_id) == (END, expected)
    assert replace(changed, bos_token_id=3, eos_token_id=eos) == config


def test_a_checkpoint_trained_on_with_a_new_tokenizer_stops_at_its_end(tmp_path):
    model = make_model(bos_token_id=3, eos_token_id=5)
    go(tmp_path, replace(CONFIG, steps=2), model)
    for name in ("config.json", "generation_config.json"):
        fields = json.loads((tmp_path / name).read_text())
        assert (fields["bos_token_id"], fields["eos_token_id"]) == (END, END)
    assert GPT.from_pretrained(tmp_path).config.eos_token_id == END


def test_a_state_with_other_ends_is_resumed(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    tensors, info = Single().load(tmp_path / "run" / "state")
    info["settings"]["model"] |= dict(bos_token_id=None, eos_token_id=7)
    Single().save(tmp_path / "run" / "state", tensors, info)
    longer = go(tmp_path / "run", replace(CONFIG, steps=22), make_model(seed=1), resume=True)
    assert longer.history[-1]["step"] == 22 and longer.model.config.eos_token_id == END


@pytest.mark.parametrize("changes, words", [
    (dict(model=Run(make_model(), None, CONFIG, [])), "model is Run: give a GPT; of a Run, its"),
    (dict(tokens=["a text"]), "tokens is list: give what tokenize"),
    (dict(config=dict(steps=3)), "config is dict: give TrainConfig"),
])
def test_things_in_the_wrong_place_are_named(changes, words):
    with pytest.raises(TypeError, match=words): go(**changes)


def test_home_is_found_in_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = go("~/runs/a", replace(CONFIG, steps=1))
    assert run.folder == tmp_path / "runs" / "a" and Run.open("~/runs/a").val_loss == run.val_loss
    assert not Path("~").exists()


def test_what_is_refused_leaves_no_trace(whole, tmp_path):
    model, other = make_model(), CharTokenizer.train(["abc"])
    nameless = CharTokenizer.train(["abc"], special_tokens=[])
    with pytest.raises(FileExistsError): go(whole, model=model)
    with pytest.raises(ValueError, match="tok has 4 tokens and ends a text with 3, but .* has 32"):
        go(tmp_path / "a", model=model, tok=other)
    with pytest.raises(ValueError, match="no end token"):
        go(tmp_path / "b", model=model, tok=nameless)
    assert model.config.bos_token_id is None and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="vocabulary of 32, the model one of 20"):
        go(model=make_model(vocab_size=20))


# others open it

@pytest.mark.parametrize("arch", ["qwen3", "gpt2"])
def test_transformers_opens_the_run_folder(tmp_path, arch):
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    texts = ["the cat sat", "a dog ran off", "猫坐下"] * 20
    tok = CharTokenizer.train(texts)
    ended = [tok.encode(text) + [tok.end_id] for text in texts]
    ids = np.array([tok.end_id, *sum(ended, [])], np.uint16)
    tokens = Tokens(ids, ids[:50], tok.end_id, tok.vocab_size, folder=None)
    model = make_model(arch=arch, vocab_size=tok.vocab_size)
    run = go(tmp_path, replace(CONFIG, steps=3), model, tokens, tok=tok)
    x = torch.tensor([tok.encode("the dog sat")])
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad(): a, b = run.model(x), theirs(x).logits
    assert (a - b).abs().max() < 1e-5 * a.abs().max()
    read = AutoTokenizer.from_pretrained(tmp_path)("the dog sat")["input_ids"]
    assert read == [tok.end_id, *x[0].tolist()]      # a text begins as it did in training
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == tok.end_id
    again = Run.open(tmp_path)
    assert again.tok.encode("cat") == tok.encode("cat") and torch.equal(again.model(x), a)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError): Run.open(tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_in_bfloat16_compiled(tmp_path):
    config = replace(CONFIG, device="cuda", steps=30)
    run = go(tmp_path, config)
    assert run.val_loss < 2.5
    with pytest.raises(KeyboardInterrupt): go(tmp_path / "b", config, backend=Hook(7, interrupt))
    assert go(tmp_path / "b", config, resume=True).val_loss == pytest.approx(run.val_loss, abs=0.05)


def test_kept_copies_are_the_model_of_that_step(whole, tmp_path):
    config = replace(CONFIG, keep=(CONFIG.steps // 2, CONFIG.steps))
    run = go(tmp_path / "run", config)
    folders = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [int(f.name) for f in folders] == list(config.keep)
    half, last = (GPT.from_pretrained(f).state_dict() for f in folders)
    end = run.model.state_dict()
    assert all(torch.equal(w, last[name]) for name, w in end.items())
    assert any(not torch.equal(w, last[name]) for name, w in half.items())
    assert Run.open(tmp_path / "run").config.keep == config.keep
    with pytest.raises(ValueError, match="keep .* folder"): go(None, config)
