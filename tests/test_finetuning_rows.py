"What holds of the measured rows of chapter 15."
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import tasks  # noqa: E402

FILE = ROOT / "nbs" / "results" / "finetuning.json"
FOUND = json.loads(FILE.read_text("utf-8"))
BY_TABLE = {"names, places, things"}   # a table of words solves them: chapter 15 says so


def scores(task: str, learn: str) -> list[float]:
    return [r["score"] for r in FOUND["rows"] if (r["task"], r["learn"]) == (task, learn)]


def error(task: str, score: float) -> float:
    "Standard deviation of a score that is a share of so many."
    about = FOUND["tasks"][task]
    return max(about["error"], (score * (1 - score) / about["tested"]) ** 0.5)


BOTH = [task for task in FOUND["tasks"] if scores(task, "all") and scores(task, "from scratch")]


def test_file_is_small_and_holds_what_is_planned():
    assert FILE.stat().st_size <= 120_000
    assert set(FOUND["tasks"]) <= {task.name for task in tasks.TASKS}
    planned = list(tasks.plan())
    assert len({str(sorted(job.items())) for job in planned}) == len(planned)
    rates = [job for job in planned if "lr" in job]
    others = [job for job in planned if "lr" not in job]
    for row in FOUND["rows"] + FOUND["labels"]:
        assert sum(job.items() <= row.items() for job in others) == 1, row
    for row in FOUND["rates"]:
        assert sum(job.items() <= row.items() for job in rates) == 1, row


def test_rates_are_chosen_by_what_was_tried():
    for row in FOUND["rows"]:
        task = next(task for task in tasks.TASKS if task.name == row["task"])
        best = tasks.best_rates(task, row["learn"], FOUND["rates"])
        assert best.items() <= row.items() or not task.text


def test_nothing_beats_its_ceiling():
    for row in FOUND["rows"]:
        best = FOUND["tasks"][row["task"]]["ceiling"]
        assert 0 <= row["score"] <= best + 3 * error(row["task"], best) + 1e-5, row


def test_counting_does_not_beat_a_ceiling():
    for name, about in FOUND["tasks"].items():
        for told in about["counted"].values():
            assert max(told) <= about["ceiling"] + 3 * error(name, about["ceiling"])


@pytest.mark.parametrize("task", BOTH)
def test_pretrained_beats_scratch(task):
    mine, fresh = np.mean(scores(task, "all")), np.mean(scores(task, "from scratch"))
    if task in BY_TABLE: assert mine >= fresh - 0.005
    else: assert mine > fresh


@pytest.mark.parametrize("task", BOTH)
def test_pretrained_does_not_lose_to_counting(task):
    best = max(np.mean(told) for told in FOUND["tasks"][task]["counted"].values())
    assert np.mean(scores(task, "all")) >= best - 2 * error(task, best) - 0.001


def test_a_bag_of_words_knows_little():
    assert max(FOUND["tasks"]["mood"]["counted"]["bag of words"]) <= 0.8
    assert max(FOUND["tasks"]["questions"]["counted"]["bag of words"]) <= 0.5


def test_memory_counts_what_training_keeps():
    task = tasks.TASKS[0]
    rows = task.rows(range(tasks.TRAIN, tasks.TRAIN + 4))
    run, seconds = tasks.fit(task, rows, "head", 0, epochs=1)
    everything = sum(p.numel() for p in run.model.parameters())
    learned = run.model.score.weight.numel()
    assert seconds > 0 and tasks.bytes_to_train(run) == 4 * (everything + 3 * learned)
    whole, _ = tasks.fit(task, rows, "all", 0, epochs=1)
    assert tasks.bytes_to_train(whole) == 16 * everything


def test_the_least_sure_are_asked_for():
    task = tasks.TASKS[0]
    rows = task.rows(range(tasks.TRAIN, tasks.TRAIN + 24))
    run, _ = tasks.fit(task, rows[:4], "head", 0, epochs=2)
    sure = tasks.predict(run, [row["text"] for row in rows], proba=True).max(1).values
    asked = tasks.least_sure(run, rows, 5)
    assert len(set(asked)) == 5
    left = [i for i in range(24) if i not in asked]
    assert sure[asked].max() <= sure[left].min() + 1e-6


def test_counting_ranks_what_follows():
    rows = [dict(words=["cup", "key"], tags=["key", "cup"]), dict(words=["cup"], tags=["key"])]
    said = tasks.popular(rows, [dict(words=["cup"]), dict(words=["key"])])
    assert said["popularity"] == [["key", "cup"]] * 2
    assert [row[0] for row in said["what follows what"]] == ["key", "cup"]
