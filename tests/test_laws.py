"Scaling laws, what a model holds, the calculator, and what a run says of itself beforehand."
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt_nb import laws
from gpt_nb.cli import run_app
from gpt_nb.laws import (
    GPUS, LEFT, MACHINE, NETWORK, SIZES, Facts, Law, Outlook, Reading, Stories, activation_bytes,
    afterwards, best_size, bits_held, expected_loss, fewest, fit_law, foresee, in_time,
    learn_by_heart, memoriser, new_reader, pace, process_memory, read_once, resample, sent,
    training_memory)
from gpt_nb.model import GPT, GPTConfig, count_params
from gpt_nb.scaling import KINDS, launch
from gpt_nb.tales import Tales
from gpt_nb.training import TrainConfig, train

LAW = Law(E=0.53, A=30, a=0.5, B=40, b=0.4)
CPU = dict(device="cpu", precision="float32", compile=False)


@pytest.fixture(scope="module")
def source(): return Stories(tested=200)


def runs_of(law, noise=0.0, seed=0):
    "Made-up runs."
    rng = np.random.default_rng(seed)
    return [Reading(n, d, law.loss(n, d) * math.exp(noise * rng.normal()))
            for n in (3e3, 1e4, 3e4, 1e5) for d in (5e4, 2e5, 8e5, 3e6)]


@pytest.mark.parametrize("law", [LAW, Law(1.69, 406.4, 0.34, 410.7, 0.28),
                                 Law(0.1, 5, 0.3, 90, 0.6)])
def test_a_law_is_found_again(law):
    found = fit_law(runs_of(law))
    assert found.E == pytest.approx(law.E, abs=0.01)
    assert (found.a, found.b) == pytest.approx((law.a, law.b), rel=0.03)
    known = fit_law(runs_of(law), floor=law.E)
    assert known.E == law.E and known.a == pytest.approx(law.a, rel=0.01)


RUNS = [Reading(n, d, LAW.loss(n, d)) for n in (3e3, 1e4, 3e4) for d in (5e4, 2e5)]


@pytest.mark.parametrize("readings, floor, said", [
    ([], None, "0 runs for a law of 5 unknown numbers"), (RUNS[:1], None, "1 runs"),
    (RUNS[:4], None, "4 runs"), (RUNS[:3], 0.5, "3 runs for a law of 4"),
    (RUNS[:1] * 9, None, "one size or one amount"), (RUNS[::2] * 2, None, "one size or one amount"),
    ([*RUNS, Reading(1e4, 1e5, math.nan)], None, "loss=nan.* finite numbers above 0"),
    ([*RUNS, Reading(1e4, 1e5, math.inf)], None, "finite"), ([*RUNS, Reading(1e4, 1e5, -1.0)],
                                                             None, "above 0"),
    ([*RUNS, Reading(1e4, 0, 1.0)], None, "above 0"), ([*RUNS, Reading(1e4, -5, 1.0)], 0.5, "-5"),
    (RUNS, 9.0, "floor is 9.0"), (RUNS, math.nan, "floor is nan"), (RUNS, -1.0, "floor is -1")])
def test_of_too_little_and_of_nonsense_no_law_is_made(readings, floor, said):
    "Two runs gave a law with five numbers; a loss that is no number an error of scipy's."
    with pytest.raises(ValueError, match=said): fit_law(readings, floor)
    with pytest.raises(ValueError, match=said): resample(readings, 2, floor=floor)


def test_no_draw_of_a_bootstrap_has_only_one_size():
    few = [*RUNS[:2] * 9, RUNS[2], RUNS[4], RUNS[5]]   # many draws hold the first size alone
    assert len(resample(few, times=5, seed=1)) == 5


@pytest.mark.parametrize("flops", [0, -1, math.nan, math.inf])
def test_a_budget_is_a_number_above_0(flops):
    with pytest.raises(ValueError, match="flops is"): best_size(LAW, flops)


@pytest.mark.parametrize("how, said", [
    (dict(people=20, parts=4), "there are 16 names"), (dict(people=0), "people is 0"),
    (dict(people=10, parts=40_000), "make 80017 tokens: at most 65536 fit")])
def test_facts_that_do_not_fit_are_refused(how, said):
    "The tokens of 40,000 names were cut to 16 bits in silence."
    with pytest.raises(ValueError, match=said): Facts(**how)


def test_two_stories_are_read_and_none_is_refused(source):
    assert read_once(source, (1, 8), 2).tokens > 50   # two: one is shorter than the context
    with pytest.raises(ValueError, match="tested is 0"): Stories(tested=0)


def test_one_wild_run_moves_the_fit_little():
    runs = runs_of(LAW, noise=0.002)
    wild = [*runs[:-1], runs[-1]._replace(loss=2 * runs[-1].loss)]
    assert fit_law(wild).E == pytest.approx(fit_law(runs).E, abs=0.05)


def test_resampled_fits_are_the_same_for_a_seed_and_surround_the_truth():
    runs = runs_of(LAW, noise=0.005)
    laws = resample(runs, times=10, seed=3)
    assert laws == resample(runs, times=10, seed=3)
    floors = [law.E for law in laws]
    assert min(floors) - 0.05 < LAW.E < max(floors) + 0.05
    assert {law.E for law in resample(runs, 3, floor=0.5)} == {0.5}


@pytest.mark.parametrize("flops", [1e10, 1e13])
def test_the_best_size_is_the_lowest_point_of_its_work(flops):
    parameters, tokens = best_size(LAW, flops)
    assert 6 * parameters * tokens == pytest.approx(flops)
    for factor in (0.8, 0.95, 1.05, 1.25):
        assert LAW.loss(factor * parameters, tokens / factor) > LAW.loss(parameters, tokens)


def test_the_truth_is_known_of_the_stories_set_aside(source):
    assert source.val[0] == source.val[-1] == source.tok.end_id
    assert source.truth == pytest.approx(source.floor, rel=0.03)
    few, many = source.tokens(5, seed=2).train, source.tokens(9, seed=2).train
    assert (many[:len(few)] == few).all()


def test_a_reading_is_what_the_run_measured(source):
    first, again = (read_once(source, (1, 8), 40) for _ in range(2))
    assert first == again and first.parameters == new_reader(source, 1, 8).n_params
    assert first.tokens <= len(source.tokens(40).train) - 1
    assert first.loss > source.floor + 1


def test_results_are_those_that_the_outlook_tells():
    path = Path(__file__).parent.parent / "nbs" / "results" / "laws.json"
    runs, length = json.loads(path.read_text())["runs"], 108_828 / 2000
    source_floor = Tales().entropy().per_story * math.log(2)
    for stories, left in LEFT.items():
        losses = [v[2] for k, v in runs.items() if k.startswith("grid") and f") {stories} " in k
                  and v[0] > 60_000]
        assert left == pytest.approx(np.mean(losses) * length - source_floor, abs=0.1), stories


def test_facts_are_rows_of_luck():
    facts = Facts(50, attributes=3, values=4, parts=10)
    rows = facts.tokens.train[1:].reshape(50, facts.context)
    assert facts.bits == pytest.approx(50 * (2 * math.log2(10) + 3 * 2))
    assert len({tuple(row[:2]) for row in rows}) == 50
    assert (rows[:, -1] == facts.tokens.end_id).all()
    assert (rows[:, 0] < 10).all() and ((rows[:, 1] >= 10) & (rows[:, 1] < 20)).all()
    assert set(rows[:, 2:5].ravel()) <= set(range(20, 24))
    assert (Facts(50, seed=1).tokens.train != Facts(50).tokens.train).any()


def test_bits_are_held_only_after_reading():
    facts = Facts(64, attributes=4, parts=20)
    model = memoriser(facts, 1, 16)
    assert bits_held(model, facts) < 0      # it does not even know which tokens are names
    learn_by_heart(model, facts, exposures=60, rows=16)
    known = bits_held(model, facts)
    assert 0.3 * facts.bits < known < facts.bits
    assert bits_held(model, Facts(64, attributes=4, parts=20, seed=9)) < 0.3 * known


def test_activations_grow_as_they_should():
    c = SIZES["124M"]
    assert activation_bytes(c, 4) == 4 * activation_bytes(c, 1)
    assert activation_bytes(c, 1) == 2 * activation_bytes(c, 1, c.context // 2)
    assert activation_bytes(c, 1, recompute=True) < 0.4 * activation_bytes(c, 1)
    halves = activation_bytes(c, 1, bytes_each=2) - activation_bytes(c, 1) / 2
    assert halves == pytest.approx(c.context * c.vocab_size * 2)   # log-probabilities stay


def test_sharing_divides_what_it_can():
    alone, eight = (training_memory(SIZES["7B"], gpus=n) for n in (1, 8))
    for what in ("weights", "gradients", "optimizer"): assert eight[what] == alone[what] / 8
    assert eight["activations"] == alone["activations"]
    assert alone["weights"] == 4 * sum(count_params(SIZES["7B"]).values())


def test_too_large_a_batch_fits_nowhere():
    with pytest.raises(ValueError, match="64 rows of 4096 tokens do not fit into 24 GB"):
        fewest(SIZES["70B"], GPUS["RTX 4090"], rows=64)


def test_what_is_sent():
    assert sent(100, 1) == sent(100, 1, sharded=False) == 0
    assert sent(100, 2, sharded=False) == 400 and sent(100, 4) == 600


def test_the_slower_of_work_and_talk_sets_the_pace():
    c, gpu = SIZES["7B"], GPUS["H100 80 GB"]
    one, many = pace(c, gpu), pace(c, gpu, 8)
    assert one.talk == 0 and many.tokens <= 8 * one.tokens * 1.0001
    assert pace(c, gpu, recompute=True).tokens == pytest.approx(0.75 * one.tokens)
    far = pace(c, gpu, 2 * MACHINE)
    assert far.talk == pytest.approx(sent(sum(count_params(c).values()), 16) / NETWORK)
    assert far.tokens == pytest.approx(16 * c.context / max(far.work, far.talk))


def held_by(shape, configs):
    "What each of two processes really holds, for each way and optimizer."
    ids, held = torch.randint(shape.vocab_size, (8, 16)), []
    for config in configs:
        for kind in KINDS:
            backend, model = KINDS[kind](config), GPT(shape)
            loss, optimizers = backend.wrap(model), backend.optimizers(model, config)
            loss(ids, ids).backward()
            backend.clip(model, 1.0)
            for optimizer in optimizers: optimizer.step()
            held.append((config, kind, backend.bytes()))
    return held


def test_what_a_process_holds_is_counted():
    shape = GPTConfig("qwen3", 300, 16, 2, 4, 64, d_ff=192, tie_embeddings=False)
    configs = [TrainConfig(steps=1, batch_size=8, optimizer=name, **CPU)
               for name in ("muon", "adamw")]
    for (config, kind, one), (*_, two) in zip(*launch(2, held_by, shape, configs)):
        counted = process_memory(shape, config, kind, 2)
        for what in ("parameters", "gradients", "optimizer"):
            mean = (one[what] + two[what]) / 2
            assert mean == pytest.approx(counted[what], rel=0.01), (kind, what)


def test_what_is_sent_and_kept_follows_the_processes():
    c, config = SIZES["124M"], TrainConfig(steps=8, batch_size=16, **CPU)
    two, four = (process_memory(c, config, "ddp", n) for n in (2, 4))
    assert four["activations"] == two["activations"] / 2 and two["sent"] < four["sent"]
    assert process_memory(c, config, "ddp", 1)["sent"] == 0
    less = process_memory(c, config, "tp", 4, recompute=True)
    whole = process_memory(c, config, "tp", 4)
    assert less["activations"] < whole["activations"] and less["sent"] > whole["sent"]
    shares = (activation_bytes(c, 16, shared=n) for n in (1, 4))   # norms and logits stay whole
    assert next(shares) < 4 * next(shares)
    parted = process_memory(c, replace(config, accumulate=4), "fsdp", 2)
    assert parted["activations"] == two["activations"] / 4


def story_run(source, **how):
    config = TrainConfig(**dict(steps=6, batch_size=8) | how, **CPU)
    return new_reader(source, 1, 16), source.tokens(100), config


def test_an_outlook_changes_nothing_of_the_run(source):
    model, tokens, config = story_run(source)
    plain = train(new_reader(source, 1, 16), tokens, config, show=False)
    before, random = [p.clone() for p in model.parameters()], torch.get_rng_state()
    foresee(model, tokens, config, source.world, seconds=0.1)
    assert all((a == b).all() for a, b in zip(before, model.parameters()))
    assert all(p.grad is None for p in model.parameters()) and model.training
    assert (torch.get_rng_state() == random).all()
    told = train(model, tokens, config, show=False)
    assert told.val_loss == plain.val_loss
    for a, b in zip(told.model.parameters(), plain.model.parameters()): assert (a == b).all()


@pytest.mark.parametrize("how", [dict(steps=1), dict(steps=None, minutes=0.01),
                                 dict(steps=10 ** 6, minutes=0.01), dict(eval_every=2)])
def test_an_outlook_of_any_run(source, how):
    said = foresee(*story_run(source, **how), seconds=0.05)
    assert said.seconds > 0 and said.loss is None and "about" in str(said)
    if "minutes" in how: assert said.seconds <= 0.6


def test_an_outlook_without_validation_text(source):
    model, tokens, config = story_run(source)
    tokens = type(tokens)(tokens.train, tokens.val[:0], tokens.end_id, tokens.vocab_size, Path())
    assert foresee(model, tokens, config, source.world, seconds=0.05).loss is None


@pytest.mark.parametrize("status", ["", "Name: x\n", "VmHWM:", "VmHWM: many kB"])
def test_a_machine_that_does_not_tell_of_memory_trains_all_the_same(source, monkeypatch, status):
    "Some containers leave the line out: `gpt-nb train` ended before it began."
    plain = Path.read_text
    told = {"/proc/self/status": status, "/proc/self/statm": ""}
    monkeypatch.setattr(Path, "read_text", lambda path, *more: told.get(str(path)) if str(
        path) in told else plain(path, *more))
    assert laws.memory_now() is None
    said = foresee(*story_run(source), seconds=0.05)
    assert said.memory is None and "memory" not in str(said)


def test_a_loss_is_told_only_where_it_was_measured(source):
    wide, tokens = new_reader(source, 2, 64), source.tokens(100)
    low, high = expected_loss(wide, tokens, 2000, source.world)
    assert source.floor < low < high < 1
    assert expected_loss(wide, tokens, 4000, source.world)[0] < low
    for other in ((new_reader(source, 1, 8), 2000, source.world), (wide, 10, source.world),
                  (wide, 2000, None), (wide, 2000, Tales("zh")), (wide, 2000, Tales(level=2))):
        assert expected_loss(other[0], tokens, *other[1:]) is None


def test_afterwards_says_how_far_it_was_off(source):
    model, tokens, config = story_run(source)
    run = train(model, tokens, config, show=False)
    run.seconds = 12.0
    words = afterwards(Outlook(10.0, None, (0.5, 0.6)), run)
    assert "took 12 seconds, +20%" in words and "above the band" in words and "MB" not in words


def test_times_as_one_says_them():
    told = {20: "20 seconds", 150: "2.5 minutes", 9000: "2.5 hours", 216_000: "2.5 days"}
    for seconds, words in told.items(): assert in_time(seconds) == words


def test_train_says_what_it_will_take_and_how_far_it_was_off(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"the {i} cats sat on {i * i} mats" for i in range(300)]
    Path("text.txt").write_text("\n\n".join(lines))
    ask = ["train", "--data", "text.txt", "--steps", "4", "--depth", "1", "--tokenizer", "char"]
    assert run_app([*ask, "--out", "run", "--estimate"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("about ") and not Path("run").exists()
    assert run_app([*ask, "--out", "run"]) == 0
    shown = capsys.readouterr()
    assert "this run will take about " in shown.err and "against what was said: took" in shown.err
    assert "about" not in Path("run/training.json").read_text()
