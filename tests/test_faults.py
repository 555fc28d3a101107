"""Nothing lost: kills at random instants, damaged states, planted links, two runs in one folder,
signals, full disks, broken batches. Ten kills by default; KILLS=200 (`make test-faults`) does what
the chapter shows, writes nbs/results/faults.json, and runs the long tests."""
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gpt_nb.faults import (BEAT, SIGNALS, SILENT, Interrupted, Lock, checksums, finish_step,
                           make_folder, open_plain, read_state, seal_of, write_state)
from gpt_nb.tokenizer import write_beside
from gpt_nb.training import Run, Single, look_for_spike
from test_training import (CONFIG, TOKENS, Hook, assert_same, copy_run, files_of, go, log_of,
                           make_model, state_of, weights_of)

HERE = Path(__file__).parent
KILLS = int(os.environ.get("KILLS", 10))
FULL = KILLS >= 50
long = pytest.mark.skipif(not FULL, reason="takes minutes: `make test-faults` runs it")
FIGURES = {}   # what the full run writes down


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run that nobody stops."
    out = tmp_path_factory.mktemp("runs") / "whole"
    go(out)
    return out


@pytest.fixture(scope="module", autouse=True)
def figures():
    "Keep what was measured, where all of it was."
    yield
    if not FULL: return
    path = HERE.parent / "nbs" / "results" / "faults.json"
    before = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(before | FIGURES, indent=1) + "\n", "utf-8")


def python(code, *args, **how):
    "A process that runs this code, with the folder of the tests to import from."
    env = os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=f"{HERE.parent}:{HERE}")
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how)


# kill -9

def test_killed_at_random_instants_a_run_ends_bit_for_bit_as_if_nobody_had(whole, tmp_path):
    code = "import sys, kills; kills.main(kills.Path(sys.argv[1]), *map(int, sys.argv[2:]))"
    seed = random.randrange(10**6) if FULL else 1
    with python(code, tmp_path, KILLS, seed) as process:
        out, err = process.communicate(timeout=60 + 40 * KILLS)
    assert process.returncode == 0, err[-3000:]
    runs = [json.loads(line) for line in out.splitlines()]
    for run in runs:
        assert run["status"] == 0, (seed, run)
        assert_same(whole, tmp_path / run["out"])
        kept = {p.name for p in (tmp_path / run["out"]).iterdir()} - {"tensorboard"}
        assert kept == {p.name for p in whole.iterdir()} - {"tensorboard"}, (seed, run)
    kills = Counter(kill for run in runs for kill in run["kills"])
    assert kills.total() >= KILLS
    mischief = Counter(kind for run in runs for kind in run["mischief"])
    FIGURES.update(killed=kills.total(), runs=len(runs), identical=len(runs), seed=seed,
                   kills=dict(sorted(kills.items())), between=dict(sorted(mischief.items())),
                   clocks_set_back=sum(run["clocks_set_back"] for run in runs))


# two runs in one folder

HOLDER = """
import sys, time
from gpt_nb.faults import Lock
with Lock(sys.argv[1]):
    print("mine", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_and_told_by_whom(tmp_path):
    seen = []
    def second(loss):
        with pytest.raises(BlockingIOError, match=f"by another run .process {os.getpid()} on .*"
                                                  "wait for its end, or stop it"):
            go(tmp_path / "run", resume=True)
        seen.append(files_of(tmp_path / "run"))
        return loss
    go(tmp_path / "run", backend=Hook(7, second))
    assert seen and not (tmp_path / "run" / ".lock").exists()
    steps = [row["step"] for row in log_of(tmp_path / "run")]
    assert steps == sorted(set(steps))


def test_of_two_that_resume_at_once_one_ends_the_run(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt): go(tmp_path / "run", backend=Hook(7, press))
    code = ("import sys, time, test_training as t\n"
            "while time.time() < float(sys.argv[2]): pass\n"
            "slow = t.Hook(9, lambda loss: (time.sleep(3), loss)[1])\n"
            "t.go(sys.argv[1], resume=True, backend=slow)")
    both = [python(code, tmp_path / "run", time.time() + 8) for _ in range(2)]
    said = [process.communicate(timeout=200)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    refused = next(err for err, process in zip(said, both) if process.returncode)
    assert "is being written by another run (process" in refused
    assert_same(whole, tmp_path / "run")


def press(loss):
    os.kill(os.getpid(), signal.SIGINT)
    return loss


def test_a_lock_left_by_a_kill_bars_nobody(tmp_path):
    with python(HOLDER, tmp_path) as process:
        process.stdout.readline()
        with pytest.raises(BlockingIOError): Lock(tmp_path).__enter__()
        process.kill()
    assert (tmp_path / ".lock").exists()
    with Lock(tmp_path) as lock: lock.check()
    assert not (tmp_path / ".lock").exists()


OTHER = dict(host="node7", machine="another", pid=7, since="2031-01-01 00:00:00")


@pytest.mark.parametrize("ago, free", [(0, False), (SILENT - 60, False), (SILENT + 5, True),
                                       (-86_400, False)])   # the last: a clock that was set back
def test_another_machine_holds_it_while_it_gives_signs_of_life(tmp_path, ago, free):
    (tmp_path / ".lock").write_text(json.dumps(OTHER))
    os.utime(tmp_path / ".lock", (time.time() - ago,) * 2)
    if free:
        with Lock(tmp_path): return
    says = "process 7 on node7, since 2031.*sign of life was .* s ago.*remove .*[.]lock"
    with pytest.raises(BlockingIOError, match=says): Lock(tmp_path).__enter__()
    assert json.loads((tmp_path / ".lock").read_text()) == OTHER


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"\xff" * 50, b"[" * 900, b'{"pid": 3}'],
                         ids=str)
def test_a_lock_that_says_nothing_bars_nobody(tmp_path, note):
    (tmp_path / ".lock").write_bytes(note)
    with Lock(tmp_path): pass


def test_who_is_taken_over_stops_before_it_writes(tmp_path):
    def take(loss):
        os.unlink(tmp_path / "run" / ".lock")   # as another machine does that thinks us dead
        (tmp_path / "run" / ".lock").write_text(json.dumps(OTHER))
        seen.update(files_of(tmp_path / "run"))
        return loss
    seen = {}
    with pytest.raises(BlockingIOError, match="was taken over"):
        go(tmp_path / "run", backend=Hook(7, take))
    assert files_of(tmp_path / "run") == seen


def test_a_sign_of_life_is_given_now_and_then(tmp_path):
    with Lock(tmp_path) as lock:
        os.utime(lock.path, (0, 0))
        lock.check()
        assert lock.path.stat().st_mtime > 0
        os.utime(lock.path, (0, 0))
        lock.check()
        assert lock.path.stat().st_mtime == 0   # not at every step
        lock.told -= BEAT
        lock.check()
        assert lock.path.stat().st_mtime > 0


def test_a_disk_that_refuses_the_lock_does_not_hold_it_for_ever(tmp_path, monkeypatch):
    "Whoever tries again in the same process met himself."
    def full(*args): raise OSError(28, "No space left on device")
    for name in ("pwrite", "ftruncate"):
        with monkeypatch.context() as m:
            m.setattr(os, name, full)
            with pytest.raises(OSError, match="No space left"): Lock(tmp_path).__enter__()
        with Lock(tmp_path) as lock: lock.check()


def test_a_disk_that_is_gone_at_the_end_hides_no_error_and_leaves_no_file_open(tmp_path,
                                                                             monkeypatch):
    def gone(*args, **how): raise OSError(30, "Read-only file system")
    with pytest.raises(ZeroDivisionError), monkeypatch.context() as m:
        with Lock(tmp_path):
            m.setattr(Path, "unlink", gone)
            1 / 0
    with Lock(tmp_path): pass


def test_a_disk_whose_files_change_their_number_is_refused_not_tried_for_ever(tmp_path,
                                                                            monkeypatch):
    monkeypatch.setattr(os.path, "samestat", lambda a, b: False)
    with pytest.raises(OSError, match="cannot hold a lock, choose a folder on another"):
        Lock(tmp_path).__enter__()


def test_a_folder_that_became_a_file_is_taken_over(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with Lock(folder) as lock:
        shutil.rmtree(folder)
        folder.write_text("mine")
        with pytest.raises(BlockingIOError, match="was taken over"): lock.check()
    assert folder.read_text() == "mine"


# damage is found before anything is written

def refused(folder, words, error=ValueError):
    "Resuming says this and changes no file."
    before = files_of(folder)
    with pytest.raises(error, match=words) as caught: go(folder, resume=True)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert files_of(folder) == before


@pytest.fixture
def run(whole, tmp_path): return copy_run(whole, tmp_path / "run")


@pytest.mark.parametrize("wrong", [
    dict(step=-1), dict(step="7"), dict(step=math.nan), dict(step=True), dict(step=10**400),
    dict(step=None), dict(seen=[]), dict(seconds="x"), dict(seconds=math.inf), dict(used="x"),
    dict(used=-1.0), dict(instead=["x"]), dict(instead=3), dict(settings=None), dict(settings={}),
    dict(settings=dict(config=[], model=1, text="x")),
], ids=str)
def test_a_state_with_wrong_numbers_is_refused(run, wrong):
    tensors, info = Single().load(run / "state")
    Single().save(run / "state", tensors, info | wrong)
    refused(run, "the state in .*run/state is damaged.*Put a copy of it back")


def test_a_state_that_is_nested_deeply_is_refused(run):
    from safetensors.torch import load_file, save_file
    path = run / "state" / "state.safetensors"
    save_file(load_file(path), path, {"info": "[" * 200_000})
    refused(run, "state.safetensors is damaged")


def drop(start):
    return lambda tensors: {n: w for n, w in tensors.items() if not n.startswith(start)}


def change(end, how):
    def changed(tensors):
        name = next(n for n in tensors if n.endswith(end))
        return tensors | {name: how(tensors[name])}
    return changed


@pytest.mark.parametrize("edit", [
    drop("optimizer"), drop("model.model.norm"), drop("random"), drop("model"),
    lambda tensors: {n: w for n, w in tensors.items() if not n.endswith("exp_avg_sq")},
    change("exp_avg", lambda w: w.half()), change("exp_avg", lambda w: w[:1]),
    change("up_proj.weight", lambda w: w.double()), change("up_proj.weight", lambda w: w.mT),
    change("up_proj.weight", lambda w: w.to(torch.int32)), change("random.cpu", lambda w: w[:9]),
    change("random.cpu", lambda w: w.float()), change("log", lambda w: w + 1),
    lambda tensors: tensors | {"model.more": torch.zeros(3)},
    lambda tensors: tensors | {"optimizer.more.step": torch.zeros(())},
    lambda tensors: tensors | {"recent.losses": torch.zeros(3, 3)},
    change(".step", lambda w: torch.zeros(3)),
    change("exp_avg", lambda w: w.mean()), change("momentum_buffer", lambda w: w.mean()),
], ids=range(19))
def test_a_state_with_other_tensors_is_refused(run, edit):
    "Even where their checksums are right."
    tensors, info = Single().load(run / "state")
    edited = {n: w.contiguous() for n, w in edit(tensors).items()}
    Single().save(run / "state", edited, info)
    refused(run, "the state in .*run/state is damaged")


def test_every_flipped_bit_of_a_state_is_noticed(run):
    path = run / "state" / "state.safetensors"
    good, luck, missed = path.read_bytes(), random.Random(0), 0
    bits = [luck.randrange(8 * len(good)) for _ in range(2000 if FULL else 150)]
    for bit in bits:
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        try: tensors, info = read_state(path.parent)
        except ValueError as e: assert "damaged" in str(e) and "\n" not in str(e)
        else: missed += 1
    header = 8 + int.from_bytes(good[:8], "little")
    blanks = header - len(good[:header].rstrip(b" "))   # of these nothing hangs
    assert missed <= 2 + 3 * len(bits) * blanks / len(good)
    FIGURES["bits"] = dict(flipped=len(bits), missed=missed)
    path.write_bytes(bad)
    refused(run, "state.safetensors is damaged")


@pytest.mark.parametrize("name", ["sums", "seal"])
def test_a_state_whose_checksums_lost_their_name_is_refused(run, name):
    "It was taken for one of a time before there were any, and its numbers were not checked."
    path = run / "state" / "state.safetensors"
    path.write_bytes(path.read_bytes().replace(f'"{name}"'.encode(), f'"{name[:-1]}~"'.encode()))
    refused(run, "state.safetensors is damaged: its header was changed")


@pytest.mark.parametrize("sums", ["[]", "3", "null", "{", "[" * 100_000], ids=range(5))
def test_checksums_of_another_kind_are_refused(run, sums):
    from safetensors.torch import load_file, save_file
    path = run / "state" / "state.safetensors"
    about = dict(info=json.dumps(read_state(path.parent)[1]), sums=sums)
    save_file(load_file(path), path, about | dict(seal=seal_of(about)))
    refused(run, "state.safetensors is damaged")


def test_a_changed_number_is_refused_with_the_name_of_its_tensor(run):
    path = run / "state" / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    refused(run, "is not what was saved. Put a copy of it back, or begin a new run with the model")


def test_a_state_of_a_time_without_checksums_is_resumed(whole, run):
    from safetensors.torch import save_file
    tensors, info = Single().load(run / "state")
    del info["used"], info["instead"], tensors["log"]
    save_file(tensors, run / "state" / "state.safetensors", {"info": json.dumps(info)})
    (run / "training.json").write_text((run / "training.json").read_text().replace(
        '"finished": true', '"finished": false'))
    go(run, resume=True)
    assert weights_of(run) == weights_of(whole) and log_of(run) == log_of(whole)


@pytest.mark.parametrize("damage", [
    lambda data: data[:len(data) // 2], lambda data: b"", lambda data: b"\0" * len(data),
    lambda data: b"\xff" * 99 + b"\n", lambda data: b"[" * 100_000 + b"\n",
    lambda data: data.replace(b'"step": 4', b'"step": "4"'),
    lambda data: b"\n".join(reversed(data.split(b"\n"))), lambda data: None,
], ids=range(8))
def test_a_damaged_log_is_written_again_from_the_state(whole, run, damage, capsys):
    log = run / "log.jsonl"
    changed = damage(log.read_bytes())
    if changed is None: log.unlink()
    else: log.write_bytes(changed)
    go(run, resume=True)
    assert "log.jsonl was cut or damaged: written again from the state" in capsys.readouterr().err
    assert log_of(run) == log_of(whole) and Run.open(run).history


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", '{"config": 3}', "\0" * 50])
def test_a_damaged_record_is_refused(run, text):
    (run / "training.json").write_text(text)
    refused(run, "training.json")


# a folder that somebody else made

PLANTED = ["training.json.part", "log.jsonl.part", "model.safetensors.part", "config.json.part",
           "state/state.safetensors.part", "model.safetensors", "config.json", "run.png"]


@pytest.mark.parametrize("name", [*PLANTED, "log.jsonl"])
def test_a_planted_link_is_not_followed(whole, run, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(victim)
    go(run, replace(CONFIG, steps=22), resume=True)
    assert victim.read_text() == "mine"
    if name != "run.png": assert not (run / name).is_symlink()   # that one belongs to the command


@pytest.mark.parametrize("name", ["state", "tensorboard", "checkpoints", "broken"])
def test_a_folder_that_is_a_link_is_refused(run, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    if (run / name).exists(): shutil.move(run / name, elsewhere)
    else: elsewhere.mkdir()
    (run / name).symlink_to(elsewhere)
    before = files_of(elsewhere)
    refused(run, f"run/{name} is a link to another place: remove it", OSError)
    assert files_of(elsewhere) == before


def test_a_planted_lock_is_not_written_through(run, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (run / ".lock").symlink_to(victim)
    refused(run, "[.]lock is a link to another place: remove it", OSError)
    assert victim.read_text() == "mine"
    (run / ".lock").unlink()
    os.mkfifo(run / ".lock")
    with pytest.raises(OSError, match="no plain file"): go(run, resume=True)


def test_a_file_beside_is_new_and_its_own(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "a.txt.part").symlink_to(victim)
    write_beside(tmp_path / "a.txt", lambda part: part.write_text("ours"))
    assert victim.read_text() == "mine" and (tmp_path / "a.txt").read_text() == "ours"
    os.link(victim, tmp_path / "a.txt.part")   # another name of that file
    write_beside(tmp_path / "a.txt", lambda part: part.write_text("again"))
    assert victim.read_text() == "mine"
    with pytest.raises(OSError, match="is a link"): open_plain(link(tmp_path, victim), os.O_WRONLY)
    with pytest.raises(OSError, match="is a link"): make_folder(link(tmp_path, victim))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "link", "victim"]


def link(folder, to):
    (folder / "link").unlink(missing_ok=True)
    (folder / "link").symlink_to(to)
    return folder / "link"


# disks that refuse

def test_a_disk_that_is_full_keeps_what_is_there(whole, tmp_path):
    "A real one, where this process may make it: 500 kB of memory."
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "none", disk],
                             capture_output=True)
    if mounted.returncode: pytest.skip("may not mount a disk: the next test limits a file instead")
    try:
        with pytest.raises(KeyboardInterrupt): go(disk / "run", backend=Hook(7, press))
        free = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(b"\0" * (free - 8192))
        says = "could not be written to .*run.*The state of step 7 is saved"
        with pytest.raises(OSError, match=says): go(disk / "run", resume=True)
        assert state_of(disk / "run")[1]["step"] == 7
        (disk / "filler").unlink()
        go(disk / "run", resume=True)
        assert_same(whole, disk / "run")
    finally: subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("limit", [300, 3_000, 10_000, 20_000, 30_000])
def test_a_file_that_may_not_grow_keeps_what_is_there(whole, tmp_path, limit):
    with pytest.raises(KeyboardInterrupt): go(tmp_path, backend=Hook(7, press))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match="state of step 7 is saved"): go(tmp_path, resume=True)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert state_of(tmp_path)[1]["step"] == 7
    go(tmp_path, resume=True)
    assert_same(whole, tmp_path)


def test_files_made_read_only_are_replaced(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt): go(tmp_path / "run", backend=Hook(7, press))
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file(): path.chmod(0o444)
    go(tmp_path / "run", resume=True)
    assert_same(whole, tmp_path / "run")


def test_a_folder_made_read_only_is_named_and_the_run_goes_on_later(whole, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt): go(out, backend=Hook(7, press))
    bars = ["chattr", "+i"], ["chattr", "-i"]
    if os.geteuid(): bars = ["chmod", "a-w"], ["chmod", "u+w"]   # to root that is no bar
    if subprocess.run([*bars[0], out], capture_output=True).returncode: pytest.skip("no chattr")
    try:
        with pytest.raises(OSError, match="run"): go(out, resume=True)
    finally: subprocess.run([*bars[1], out], check=True)
    go(out, resume=True)
    assert_same(whole, out)


# what breaks

class Burst(Single):
    "At one update, of each sitting that comes to it with this batch, the loss is another."
    def __init__(self, batch, how, stop=None): self.batch, self.how, self.stop = batch, how, stop

    def wrap(self, model):
        bad = TOKENS.batches(CONFIG.batch_size, 16, CONFIG.seed)[self.batch][0]
        def loss(x, y):
            plain = model.loss(x, y)
            if self.stop is not None and torch.equal(x, self.stop): os.kill(os.getpid(), 2)
            return self.how(plain) if torch.equal(x, bad) else plain
        return loss


LONG = replace(CONFIG, steps=60, log_every=2)
BROKEN = {"nan": lambda loss: loss * math.nan, "infinite": lambda loss: loss + math.inf,
          "a spike": lambda loss: loss + 50}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_batch_is_kept_and_the_run_goes_on_without_it(tmp_path, capsys, kind):
    batches = TOKENS.batches(CONFIG.batch_size, 16, CONFIG.seed)
    run = go(tmp_path / "run", LONG, backend=Burst(37, BROKEN[kind]))
    err = capsys.readouterr().err
    assert "at step 38: back to step 35, and on without that batch, which is kept as " in err
    kept = json.loads((tmp_path / "run" / "broken" / "000038.json").read_text())
    assert kept["rows"] == batches[37][0].tolist()
    assert "step 38" in kept["why"] and run.history[-1]["step"] == 60
    steps = [row["step"] for row in log_of(tmp_path / "run")]
    assert steps == sorted(set(steps)) and run.val_loss < run.history[0]["val_loss"]
    assert state_of(tmp_path / "run")[1]["instead"] == [37]


@pytest.mark.parametrize("stop", [33, 36, 37, 38, 50])
def test_after_a_broken_batch_a_stop_changes_nothing(tmp_path, stop):
    go(tmp_path / "whole", LONG, backend=Burst(37, BROKEN["a spike"]))
    at = TOKENS.batches(CONFIG.batch_size, 16, CONFIG.seed)[stop][0]
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", LONG, backend=Burst(37, BROKEN["a spike"], at))
    go(tmp_path / "run", LONG, backend=Burst(37, BROKEN["a spike"]), resume=True)
    assert_same(tmp_path / "whole", tmp_path / "run")


def test_what_breaks_again_ends_the_run(tmp_path):
    class Always(Single):
        def wrap(self, model):
            calls = []
            def loss(x, y):
                calls.append(1)
                return model.loss(x, y) * (math.nan if len(calls) >= 38 else 1)
            return loss
    with pytest.raises(FloatingPointError, match="lower rates.*state of step 35"):
        go(tmp_path / "run", LONG, backend=Always())
    assert state_of(tmp_path / "run")[1]["step"] == 35


def test_without_a_state_to_go_back_to_it_is_an_error(tmp_path):
    with pytest.raises(FloatingPointError, match="step 38: start again"):
        go(None, LONG, backend=Burst(37, BROKEN["nan"]))
    run = go(None, LONG, backend=Burst(37, BROKEN["a spike"]))   # it is over in one step
    assert run.history[-1]["step"] == 60


def test_ctrl_c_does_not_replace_a_good_state_by_one_that_is_no_number(tmp_path):
    def broken(loss): return press(loss) * math.nan
    with pytest.raises(KeyboardInterrupt, match="not sound, resume from step 5"):
        go(tmp_path / "run", backend=Hook(7, broken))
    tensors, info = state_of(tmp_path / "run")
    assert info["step"] == 5 and all(w.isfinite().all() for w in tensors.values())


def test_ordinary_losses_are_no_spikes():
    luck = random.Random(0)
    for spread in (0.01, 0.1, 0.5):
        losses = [6 * math.exp(-i / 300) + 2 + luck.gauss(0, spread) for i in range(3000)]
        for i in range(120, 3000, 10):
            rows = [dict(loss=sum(losses[j - 10:j]) / 10) for j in range(i - 100, i + 1, 10)]
            last = torch.tensor(losses[i - 10:i])
            meter = SimpleNamespace(last=last, each=last.tolist)
            trainer = SimpleNamespace(meter=meter, progress=SimpleNamespace(step=i), batches=[],
                                      backend=Single())
            run = SimpleNamespace(history=rows)
            look_for_spike(SimpleNamespace(trainer=trainer, run=run, saved=0))


# who asks to stop

@pytest.mark.parametrize("number", SIGNALS, ids=lambda n: signal.Signals(n).name)
def test_each_signal_leaves_a_run_that_resumes(whole, tmp_path, number):
    def ask(loss):
        os.kill(os.getpid(), number)
        return loss
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="stopped after step 7: resume from") as caught:
        go(tmp_path, backend=Hook(7, ask))
    assert caught.value.number == number and signal.getsignal(number) is before
    go(tmp_path, resume=True)
    assert_same(whole, tmp_path)


def test_asked_in_the_last_step_the_run_is_whole_and_says_so(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt, match="it was the last, and .* holds the finished run"):
        go(tmp_path, backend=Hook(20, press))
    assert_same(whole, tmp_path)


def test_who_listens_already_is_left_alone():
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with finish_step() as pressed:
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.signal(signal.SIGHUP, ignored)
    assert heard == [signal.SIGUSR1] and pressed == []


def test_ctrl_c_too_is_left_to_who_listens_or_ignores_it():
    "A script ignores it for what it starts with &."
    heard, before = [], signal.getsignal(signal.SIGINT)
    try:
        for listens in (signal.SIG_IGN, lambda number, frame: heard.append(number)):
            signal.signal(signal.SIGINT, listens)
            with finish_step() as pressed: os.kill(os.getpid(), signal.SIGINT)
            assert pressed == [] and signal.getsignal(signal.SIGINT) is listens
    finally: signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT]


def test_under_torchrun_a_ctrl_c_that_is_passed_on_is_one(monkeypatch):
    "It comes from the terminal, and once more from torchrun: the step is to end all the same."
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    with finish_step() as pressed:
        for _ in range(2): os.kill(os.getpid(), signal.SIGINT)
    assert pressed == [signal.SIGINT] * 2
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    with pytest.raises(KeyboardInterrupt), finish_step():
        for _ in range(2): os.kill(os.getpid(), signal.SIGINT)


# the parts

def test_checksums_hang_on_kind_and_shape():
    w = torch.arange(6.0)
    sums = [checksums(dict(w=v))["w"] for v in (w, w.view(2, 3), w.view(torch.int32), w.flip(0))]
    assert len(set(sums)) == 4
    assert checksums(dict(w=w.view(2, 3).mT)) == checksums(dict(w=w.view(2, 3).mT.contiguous()))
    assert checksums(dict(a=torch.zeros(()), b=torch.zeros(0), c=torch.ones(2).bfloat16()))


def test_a_state_is_what_was_written(tmp_path):
    tensors = dict(a=torch.randn(3, 4).mT, b=torch.zeros(()), c=torch.tensor([1, 2]))
    write_state(tmp_path / "state", tensors, dict(step=3, words="猫"))
    back, info = read_state(tmp_path / "state")
    assert info == dict(step=3, words="猫") and back.keys() == tensors.keys()
    assert all(torch.equal(back[n], w) for n, w in tensors.items())
    with pytest.raises(FileNotFoundError, match="nothing to resume"): read_state(tmp_path)


# the command

@pytest.fixture
def made(tmp_path, monkeypatch):
    "A run that the command made of a file; its cache is its own."
    from gpt_nb.cli import run_app
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("secret.txt").write_text("".join(f"{i} times {i} makes {i * i}\n\n" for i in range(400)))
    Path("secret.txt").chmod(0o600)
    words = "train --data secret.txt --tokenizer char --depth 1 --context 32 --steps 4 --out run"
    assert run_app(words.split()) == 0
    return tmp_path / "run"


def says(capsys, *words):
    "The one line of a command that is refused."
    from gpt_nb.cli import run_app
    capsys.readouterr()
    assert run_app([*map(str, words)]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_what_only_a_record_names_is_not_read(made, capsys, monkeypatch):
    from gpt_nb.cli import run_app
    assert run_app(["eval", "run"]) == 0 and run_app(["train", "--resume", "--out", "run"]) == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(made.parent / "another"))   # somebody else's machine
    for words in ("eval run", "train --resume --out run", "compare run run",
                  "train --from run --steps 1 --out new"):
        said = says(capsys, *words.split())
        assert "the record of run names secret.txt, and nobody" in said, said
        assert "give --data secret.txt yourself" in said and "times" not in said
    assert not list(Path("another").rglob("*.bin"))
    assert run_app(["eval", "run", "--data", "secret.txt"]) == 0
    assert run_app(["eval", "run"]) == 0 and run_app(["train", "--resume", "--out", "run"]) == 0


@pytest.mark.parametrize("option, value", [
    ("data", "/etc/passwd"), ("data", "hub:someone/something"), ("data", "/**/*"),
    ("data", "tales+/etc/passwd"), ("start", "someone/model"), ("config", "/etc/passwd"),
    ("tokenizer", "someone/tokenizer"),
])
def test_a_record_that_was_changed_reads_nothing(made, capsys, option, value):
    path = made / "training.json"
    record = json.loads(path.read_text())
    record["options"][option] = value
    path.write_text(json.dumps(record))
    before = files_of(made)
    assert "and nobody on this machine has" in says(capsys, "train", "--resume", "--out", made)
    assert files_of(made) == before
    if option == "data": assert "is not read" in says(capsys, "eval", made)


def test_a_planted_picture_is_not_written_through(made):
    from gpt_nb.cli import run_app
    victim = made.parent / "victim"
    victim.write_text("mine")
    (made / "run.png").unlink()
    (made / "run.png").symlink_to(victim)
    assert run_app(["train", "--resume", "--out", "run"]) == 0
    assert victim.read_text() == "mine" and not (made / "run.png").is_symlink()


def test_a_private_text_stays_private_in_the_cache(made):
    kept = [p for p in (made.parent / "cache").rglob("*") if p.suffix in (".bin", ".arrow")]
    assert kept and all(p.stat().st_mode & 0o077 == 0 for p in kept)
    assert (made.parent / "cache" / "gpt_nb" / "named.txt").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_command_saves_and_says_how_to_go_on(made, number):
    out = made.parent / "long"
    words = ["train", "--data", "secret.txt", "--tokenizer", "char", "--depth", "1", "--context",
             "32", "--steps", "100000", "--eval-every", "20", "--out", str(out)]
    code = "from gpt_nb.cli import main; main()"
    with python(code, *words) as process:
        while process.poll() is None and not (out / "state" / "state.safetensors").exists():
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=100)
    assert process.returncode == 128 + number and f"Go on with: gpt-nb train --out {out}" in err
    assert state_of(out) and not (out / ".lock").exists()


def test_a_notebook_that_is_closed_leaves_a_run_that_goes_on(whole, tmp_path):
    "Jupyter interrupts its kernel, asks it to end, and then ends it."
    from jupyter_client import KernelManager
    env = os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=f"{HERE.parent}:{HERE}")
    manager, out = KernelManager(), tmp_path / "run"
    manager.start_kernel(env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        talk = manager.blocking_client()
        talk.start_channels()
        talk.wait_for_ready(timeout=100)
        talk.execute(f"import signal; from test_training import Hook, go\n"
                     f"go({str(out)!r}, backend=Hook(9, lambda loss: signal.pause() or loss))")
        until, log = time.monotonic() + 100, out / "log.jsonl"   # step 9 waits for a signal
        while time.monotonic() < until and not (log.is_file() and '"step": 8' in log.read_text()):
            time.sleep(0.05)
        talk.stop_channels()
    finally: manager.shutdown_kernel(now=False)
    assert state_of(out)[1]["step"] == 9 and not manager.is_alive()
    go(out, resume=True)
    assert_same(whole, out)


# long runs

def resident():
    "Bytes of memory that this process holds."
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@long
def test_20000_steps_hold_memory_flat(tmp_path):
    config = replace(CONFIG, steps=20_000, eval_every=1000, log_every=10, batch_size=2)
    seen = {}
    def look(row):
        if row["step"] % 2000 == 0: seen[row["step"]] = resident()
    go(tmp_path / "run", config, watch=look)
    grown = seen[20_000] - seen[2000]
    FIGURES["steps"] = dict(steps=20_000, grown_bytes=grown)
    assert grown < 20e6, seen


@long
def test_10000_generations_leak_nothing():
    from gpt_nb.sampling import generate
    model, seen = make_model().eval(), {}
    for i in range(10_001):
        generate(model, [1, 2, 3], max_new_tokens=4, seed=i)
        if i % 1000 == 0: seen[i] = resident()
    grown = seen[10_000] - seen[1000]
    FIGURES["generations"] = dict(generations=10_000, grown_bytes=grown)
    assert grown < 10e6, seen
