"""What the benchmarks share: pieces of work timed in turn, a row of the table, limits measured."""
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent / "results.json"


@dataclass(frozen=True)
class Options:
    "What the command line of run.py says."
    nanogpt: Path | None = None   # a checkout of nanoGPT, to be timed beside us
    device: str = "cpu"
    rounds: int = 5               # times each piece of work is done; the median counts


class Times(NamedTuple):
    "Seconds of one piece of work: by the clock, and of all processor cores together."
    wall: float
    cpu: float


def now() -> Times:
    "The clock, and the processor time of this process and of those it has waited for."
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        sys.modules["torch"].cuda.synchronize()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = time.process_time() + children.ru_utime + children.ru_stime
    return Times(time.perf_counter(), cpu)


def once(f: Callable) -> Times:
    "Seconds of one call."
    start = now()
    f()
    end = now()
    return Times(end.wall - start.wall, end.cpu - start.cpu)


def in_turn(
    ways: dict[str, Callable],   # name -> a call of it does one piece of work
    rounds: int = 5,
) -> dict[str, Times]:           # name -> medians
    "Each is run once to warm up, then all in turn; each round goes the other way about."
    for f in ways.values(): f()
    times, order = {name: [] for name in ways}, list(ways)
    for _ in range(rounds):
        for name in order: times[name].append(once(ways[name]))
        order.reverse()
    return {name: Times(*map(statistics.median, zip(*seen))) for name, seen in times.items()}


@contextmanager
def threads(n: int) -> Iterator[None]:
    "Inside it torch computes with so many threads."
    import torch
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try: yield
    finally: torch.set_num_threads(before)


def row(
    work: str,                   # what is done, so that it can be looked up: "training step, ..."
    unit: str,                   # of `ours`, `peer` and `limit`
    ours: float,
    peer: float | None = None,   # measured in the same call; None: `note` says why there is none
    peer_name: str = "",
    limit: float | None = None,  # the best that this machine could do, measured
    goal: float | None = None,   # the ratio wanted; without a peer, the value wanted of `ours`
    less: bool = True,           # whether less is better
    threads: int = 2,
    note: str = "",
) -> dict:
    "A row of the table. Its ratio says how many times better we are than the peer."
    if peer is None and not note:
        raise ValueError(f"{work!r} has neither a peer nor a note that says why")
    ratio, share, met = None, None, None
    if peer is not None: ratio = better(ours, peer, less)
    if limit is not None: share = better(ours, limit, less)
    if goal is not None and peer is not None: met = ratio >= goal
    elif goal is not None: met = better(ours, goal, less) >= 1
    return dict(work=work, unit=unit, ours=ours, peer=peer, peer_name=peer_name, ratio=ratio,
                limit=limit, share=share, goal=goal, met=met, less=less, threads=threads,
                note=note)


def better(ours: float, other: float, less: bool) -> float:
    "How many times better than the other."
    return other / ours if less else ours / other


def keep(row: dict, path: Path = RESULTS) -> list[dict]:  # all rows of the file
    "Write a row into the file, in the place of one of the same work, threads and device."
    rows, new = read(path), key(row)
    places = [i for i, old in enumerate(rows) if key(old) == new]
    if places: rows[places[0]] = row
    else: rows.append(row)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)
    return rows


def read(path: Path = RESULTS) -> list[dict]:
    "The rows of the file; none where there is no file."
    return json.loads(path.read_text("utf-8")) if path.exists() else []


def key(row: dict) -> tuple:
    "What tells a row from all others."
    return row["work"], row["threads"], row.get("device")


COLUMNS = "{:58} {:>7} {:>9} {:>9}  {:14} {:>6} {:>6} {:>6} {}"


def table(rows: list[dict]) -> str:
    "The rows, one a line; what is worth knowing of a row stands under it."
    heads = "work threads ours peer (peer) ratio goal limit met".split()
    lines = [COLUMNS.format(*heads)]
    for r in rows:
        met = {None: "", True: "yes", False: "no"}[r["met"]]
        limit = "" if r["share"] is None else f"{r['share']:.0%}"
        numbers = [short(r[name]) for name in ("ours", "peer")]
        ends = [short(r[name]) for name in ("ratio", "goal")]
        work = f"{r['work']}, {r['unit']}"
        cells = [work, r["threads"], *numbers, r["peer_name"], *ends, limit, met]
        lines.append(COLUMNS.format(*cells))
        if r["note"]: lines.append(f"    {r['note']}")
    return "\n".join(lines)


def short(x: float | None) -> str:
    "Three digits; nothing where there is no number."
    if x is None: return ""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def machine() -> str:
    "What a row was measured on."
    import torch
    name, about = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    lines = about.read_text("utf-8").splitlines() if about.exists() else []   # Linux
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [name])[0]}, {os.cpu_count()} cores, torch {torch.__version__}"


def reading_speed(device: str = "cpu", n: int = 64_000_000) -> float:
    "Bytes a second that are read from memory: a large array added up, the best of 10."
    import torch
    x = torch.ones(n, device=device)
    return 4 * n / shortest(x.sum, device)


def multiplying_speed(device: str = "cpu", dtype: str = "float32", n: int = 1024) -> float:
    "Multiplications and additions a second in a product of two large matrices, the best of 10."
    import torch
    x = torch.randn(n, n, device=device).to(getattr(torch, dtype))
    return 2 * n**3 / shortest(lambda: x @ x, device)


def shortest(f: Callable, device: str) -> float:
    "Seconds of the best of 10 calls; of one thread by the processor's time, else by the clock."
    import torch
    one, times = device == "cpu" and torch.get_num_threads() == 1, [once(f) for _ in range(10)]
    return min(t.cpu if one else t.wall for t in times)
