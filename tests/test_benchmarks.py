"""The frame of the benchmarks: what is timed in which order, what a row says, what is kept.
The benchmarks themselves take minutes and are run by `make bench`."""
import importlib
import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import frame  # noqa: E402
import run  # noqa: E402


def test_in_turn_warms_up_and_turns_the_order_round():
    calls = []
    ways = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = frame.in_turn(ways, rounds=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert list(times) == ["a", "b"] and min(times["a"]) >= 0


def test_in_turn_takes_the_median(monkeypatch):
    clock = iter([0, 1, 1, 3, 3, 9])   # seconds of three calls: 1, 2, 6
    monkeypatch.setattr(frame, "now", lambda: frame.Times(*2 * [next(clock)]))
    assert frame.in_turn({"a": lambda: None}, rounds=3) == {"a": frame.Times(2, 2)}


def test_processor_time_counts_what_children_did():
    code = "sum(range(5_000_000))"
    import subprocess
    times = frame.once(lambda: subprocess.run([sys.executable, "-c", code], check=True))
    assert 0.02 < times.cpu


@pytest.mark.parametrize("ours, peer, less, goal, ratio, met", [
    (2.0, 4.0, True, 1.5, 2.0, True), (2.0, 4.0, False, None, 0.5, None),
    (2.0, 3.0, True, 2.0, 1.5, False), (0.2, None, True, 0.3, None, True),
    (0.4, None, True, 0.3, None, False), (40, None, False, 30, None, True)])
def test_row(ours, peer, less, goal, ratio, met):
    made = frame.row("w", "s", ours, peer, "p", goal=goal, less=less, limit=1.0, note="n")
    assert (made["ratio"], made["met"]) == (ratio, met)
    assert made["share"] == (1 / ours if less else ours)


def test_no_row_without_a_peer_or_a_reason():
    with pytest.raises(ValueError, match="neither a peer nor a note"): frame.row("w", "s", 1.0)


def test_a_row_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "results.json"
    for ours, threads in ((1.0, 1), (2.0, 2), (3.0, 1)):
        rows = frame.keep(frame.row("w", "s", ours, 6.0, "p", threads=threads), path)
    assert [r["ours"] for r in rows] == [3.0, 2.0] and frame.read(path) == rows
    assert [f.name for f in tmp_path.iterdir()] == ["results.json"]
    text = frame.table(rows)
    assert len(text.splitlines()) == 3 and "w, s" in text


def test_run_keeps_what_was_measured_before_a_failure(tmp_path, monkeypatch, capsys):
    (tmp_path / "good_one.py").write_text(
        "from frame import row\n\ndef rows(options):\n"
        "    yield row('w', 's', 1.0, 2.0, 'p', note=str(options.rounds))\n")
    (tmp_path / "bad_one.py").write_text(
        "from frame import row\n\ndef rows(options):\n"
        "    yield row('v', 's', 1.0, 2.0, 'p')\n    raise RuntimeError('broken')\n")
    (tmp_path / "helper.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(run, "HERE", tmp_path)
    assert run.names() == ["bad_one", "good_one"]
    assert run.main(["--out", str(tmp_path / "r.json"), "--rounds", "3"]) == 1
    seen = capsys.readouterr()
    assert "broken" in seen.err and "Not measured, for the reasons above: bad_one" in seen.out
    kept = json.loads((tmp_path / "r.json").read_text("utf-8"))
    said = [(r["work"], r["note"], r["device"]) for r in kept]
    assert said == [("v", "", "cpu"), ("w", "3", "cpu")]


@pytest.mark.parametrize("given, word", [(["nothing"], "no benchmark nothing"),
                                         (["--rounds", "0"], "give at least 1"),
                                         (["--nanogpt", "here"], "no model.py in here")])
def test_bad_input_is_one_clear_line(given, word, capsys):
    with pytest.raises(SystemExit): run.main(given)
    assert word in capsys.readouterr().err


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(run, "has_device", lambda name: False)
    assert run.main(["--device", "cuda"]) == 1
    assert "have not been measured" in capsys.readouterr().out


def test_limits_are_measured():
    assert 1e8 < frame.reading_speed(n=100_000) < 1e13
    assert 1e7 < frame.multiplying_speed(n=64) < 1e13


@pytest.mark.parametrize("name", run.names())
def test_every_benchmark_can_be_imported(name):
    assert callable(importlib.import_module(name).rows)


def test_kept_rows_are_whole():
    names = set(frame.row("w", "s", 1.0, 2.0)) | {"benchmark", "device", "machine"}
    for row in frame.read(): assert names <= set(row), row["work"]


def test_a_slope_is_that_of_a_power():
    growth = importlib.import_module("growth")
    points = [(x, 3 * x**1.5) for x in (1, 2, 4, 8)]
    made = growth.grown("it", "width", points, expected=2.0)
    assert abs(made["ours"] - 1.5) < 1e-9 and made["met"] and made["points"] == points
    assert not growth.grown("it", "width", points, expected=1.0)["met"]


def test_what_is_counted_grows_as_it_should():
    growth = importlib.import_module("growth")
    slopes = {}
    for axis, sizes in growth.SIZES.items():
        shapes = [growth.shaped(axis, x) for x in sizes]
        work = [(x, batch * c.context * growth.flops_per_token(c, c.context))
                for x, (c, batch) in zip(sizes, shapes)]
        slopes[axis] = growth.slope(work)
    assert slopes["batch"] == pytest.approx(1) and 1 < slopes["context"] < 2
    assert 1.5 < slopes["width"] < 2 and slopes["depth"] < 1 and slopes["vocabulary"] < 1
