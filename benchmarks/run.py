"""Time this library beside its peers, in turn and in one process, and print one table.

    python benchmarks/run.py [NAME ...] [--nanogpt DIR] [--device cuda] [--rounds 5]

Each row is written into benchmarks/results.json as soon as it is measured. Two busy programs slow
each other down: let nothing else run meanwhile. nanoGPT is on no registry of packages: point
--nanogpt at a checkout of it and it is timed too.
"""
import argparse
import importlib
import os
import sys
import time
import traceback
from pathlib import Path

from frame import RESULTS, Options, keep, machine, table

HERE = Path(__file__).parent


def names() -> list[str]:
    "The benchmarks that are there: files of this folder with a function `rows`."
    return sorted(f.stem for f in HERE.glob("*.py") if "\ndef rows(" in f.read_text("utf-8"))


def measure(name: str, options: Options, out: Path) -> list[dict]:
    "Run one benchmark; its rows are kept as they come."
    seen, start = [], time.perf_counter()
    for row in importlib.import_module(name).rows(options):
        seen.append(row | dict(benchmark=name, device=options.device, machine=machine()))
        keep(seen[-1], out)
        print(table(seen[-1:]).split("\n", 1)[1], file=sys.stderr, flush=True)
    print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return seen


def arguments(given: list[str] | None) -> argparse.Namespace:
    "The command line."
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    p.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}; none: all")
    p.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    p.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    p.add_argument("--rounds", type=int, default=5, help="times each is done; the median counts")
    p.add_argument("--out", type=Path, default=RESULTS, help="the file for the rows")
    a = p.parse_args(given)
    unknown = sorted(set(a.names) - set(names()))
    if unknown: p.error(f"no benchmark {', '.join(unknown)}: there are {', '.join(names())}")
    if a.rounds < 1: p.error(f"--rounds is {a.rounds}: give at least 1")
    if a.nanogpt and not (a.nanogpt / "model.py").is_file():
        p.error(f"no model.py in {a.nanogpt}: give the folder of a checkout of nanoGPT")
    return a


def has_device(name: str) -> bool:
    "Whether this machine has it."
    import torch
    return name == "cpu" or torch.cuda.is_available()


def main(given: list[str] | None = None) -> int:   # exit code
    "Run the benchmarks asked for and print the table; one that fails does not stop the others."
    a = arguments(given)
    if not has_device(a.device):
        print("There is no CUDA device here: the rows of a GPU have not been measured.")
        return 1
    busy = os.getloadavg()[0]
    if busy > 0.5: print(f"Other programs run here (load {busy:.1f}): times will be too long.")
    options, rows, failed = Options(a.nanogpt, a.device, a.rounds), [], []
    for name in a.names or names():
        try: rows += measure(name, options, a.out)
        except Exception:
            failed.append(name)
            traceback.print_exc()
    print(table(rows))
    if failed: print(f"Not measured, for the reasons above: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
