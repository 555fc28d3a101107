"""Runs that are killed: `python tests/kills.py FOLDER KILLS SEED` prints a line of JSON for each.

A run of seconds is killed, resumed, killed again, and at last let alone. A process that computes
nothing forks those that train, so none has to import torch again. They are killed in four ways: by
the clock; before a call into C that is chosen at random, anywhere or within a saving (the kernel's
calls are among them); or with a file half written. Between two sittings a log may be cut in half,
rubbish be left behind, the clock be set back."""
import json
import mmap
import os
import random
import signal
import struct
import sys
import time
from pathlib import Path

import tensorboard.compat.proto.event_pb2   # noqa: F401 -- what a child would import again
import tensorboard.summary.writer.record_writer   # noqa: F401
import torch
import torch._dynamo   # noqa: F401

import test_training as t
from gpt_nb import training

WAYS = ("clock", "call", "call in a saving", "half a file")
PER_RUN = 5   # kills
PLACES = ("starting", "resuming", "training", "saving")
SHARED = mmap.mmap(-1, 32)   # of both processes: where a child is, its calls, those in savings


class Counter:
    "Counts calls into C, tells the parent where we are, and ends the process when it is time."
    def __init__(self, way: str | None, at: int):
        self.way, self.at, self.calls, self.saving, self.place = way, at, 0, 0, 0

    def __call__(self, frame, event, arg) -> None:
        if event != "c_call": return
        self.calls += 1
        self.saving += self.place == 3
        seen = dict(zip(WAYS[1:3], (self.calls, self.saving))).get(self.way)
        if seen == self.at: self.end()

    def end(self) -> None: os.kill(os.getpid(), signal.SIGKILL)

    def tell(self) -> None: SHARED[:32] = struct.pack("4q", self.place, self.calls, self.saving, 0)

    def inside(self, function, place: int):
        "The function; while it runs we are at that place."
        def run(*args, **how):
            before, self.place = self.place, place
            self.tell()
            try: return function(*args, **how)
            finally:
                self.place = before
                self.tell()
        return run


def sitting(out: Path, way: str | None, at: int, clock: float) -> None:
    "One process: begin the run or go on with it."
    counter, rename, files = Counter(way, at), os.replace, [0]
    training.RunFolder.save = counter.inside(training.RunFolder.save, 3)
    training.resume_run = counter.inside(training.resume_run, 1)
    training.run_loop = counter.inside(training.run_loop, 2)
    now = time.time
    time.time = lambda: now() - clock
    def replace(part, path):
        files[0] += 1
        if way == WAYS[3] and files[0] == at:
            os.truncate(part, os.path.getsize(part) // 2)
            counter.end()
        rename(part, path)
    os.replace = replace
    if way in WAYS[1:3] or way == "measure": sys.setprofile(counter)
    saved = (out / "state" / "state.safetensors").exists()
    other = t.make_model(seed=random.randrange(1, 99)) if saved else None   # nothing of it survives
    t.go(out, model=other, resume=(out / "training.json").exists())
    sys.setprofile(None)
    counter.tell()


def fork(out: Path, way: str | None = None, at: int = 0, clock: float = 0.0,
         wait: float | None = None) -> tuple[int, str, float]:   # status, place, seconds
    "A sitting in a process of its own."
    SHARED[:32] = bytes(32)
    start, child = time.perf_counter(), os.fork()
    if child == 0:
        code = 1
        try:
            sitting(out, way, at, clock)
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally: os._exit(code)
    if wait is not None:
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return status, PLACES[struct.unpack("4q", SHARED[:32])[0]], time.perf_counter() - start


def mischief(out: Path, luck: random.Random) -> str:
    "What happens to a folder while nobody looks."
    kind = luck.choice(["nothing", "log cut in half", "rubbish left"])
    log = out / "log.jsonl"
    if kind == "log cut in half" and log.is_file(): os.truncate(log, log.stat().st_size // 2)
    if kind == "rubbish left" and out.is_dir():
        for name in ("model.safetensors.part", "training.json.part"):
            (out / name).write_bytes(b"\0" * 99)
    return kind


def killed_run(out: Path, luck: random.Random, wanted: int, scale: dict) -> dict:
    "Kill a run so many times, let it end, and say how each kill hit."
    kills, mischiefs, clocks = [], [], 0
    while len(kills) < wanted:
        way, back = luck.choice(WAYS), luck.choice([0.0, 0.0, 86_400.0])
        at = luck.randint(1, max(1, int(scale[way]))) if way != "clock" else 0
        wait = luck.uniform(0, scale["clock"]) if way == "clock" else None
        status, place, _ = fork(out, way, at, back, wait)
        if status == signal.SIGKILL: kills.append(f"{way}, {place}")
        elif status: raise SystemExit(f"{way} {at} ended with {status}")
        elif len(mischiefs) > 4 * wanted: break   # it is finished: begin another
        clocks += back > 0
        mischiefs.append(mischief(out, luck))
    status = fork(out)[0]
    return dict(kills=kills, mischief=mischiefs, clocks_set_back=clocks, status=status)


def main(folder: Path, n: int, seed: int) -> None:
    luck = random.Random(seed)
    torch.set_num_threads(1)
    assert os.listdir("/proc/self/task") == [str(os.getpid())]   # no thread, no lock held in it
    fork(folder / "measured", "measure")
    calls, saving = struct.unpack("4q", SHARED[:32])[1:3]
    _, _, seconds = fork(folder / "timed")
    scale = {"clock": seconds, "call": calls, "call in a saving": saving, "half a file": 20}
    done, number = 0, 0
    while done < n:
        out = folder / f"run-{number}"
        told = killed_run(out, luck, min(PER_RUN, n - done), scale)
        print(json.dumps(dict(out=out.name, **told)), flush=True)
        done, number = done + len(told["kills"]), number + 1


if __name__ == "__main__": main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
