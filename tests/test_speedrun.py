"The race of chapter 21: its rules are kept, the watch is honest, the command ends as it should."
import time
from dataclasses import replace

import pytest
import torch

from gpt_nb import speedrun as module
from gpt_nb.cli import run_app
from gpt_nb.data import load_texts
from gpt_nb.speedrun import (CONTEXT, POLAR, RECIPE, TARGETS, Entry, QuickMuon, Racer, Result,
                             SideBySide, fastest, optimizers_of, race, race_text, reference)
from gpt_nb.training import orthogonalize

MOST = 830_000   # parameters


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    "A file that is long enough to race on for a moment."
    path = tmp_path_factory.mktemp("race") / "text.txt"
    path.write_text("\n\n".join(load_texts("pydocs")[:5])[:20_000], "utf-8")
    return path


@pytest.fixture(scope="module")
def tokens(text): return race_text(str(text))[1]


def short(vocab_size, steps, **changes):
    entry = fastest(vocab_size)
    return entry._replace(config=replace(entry.config, steps=steps, **changes))


@pytest.mark.parametrize("vocab_size", [65, 114])
@pytest.mark.parametrize("make", [reference, fastest])
def test_contestants_are_small_enough(make, vocab_size):
    assert sum(p.numel() for p in make(vocab_size).model.parameters()) <= MOST


def test_nobody_sees_what_comes():
    model = fastest(50).model
    for p in model.parameters(): torch.nn.init.normal_(p, std=0.3)
    ids = torch.randint(50, (2, CONTEXT))
    changed = ids.clone()
    changed[:, 40:] = (ids[:, 40:] + 1) % 50
    torch.testing.assert_close(model(ids)[:, :40], model(changed)[:, :40])
    assert not torch.allclose(model(ids)[:, 40:], model(changed)[:, 40:])


def test_a_fresh_model_knows_nothing():
    loss = fastest(50).model.loss(torch.randint(50, (2, 9)), torch.randint(50, (2, 9)))
    torch.testing.assert_close(loss.item(), torch.tensor(50.0).log().item())


def test_a_seed_fixes_the_race_and_looking_changes_nothing(tokens):
    V = tokens.vocab_size
    blind, looked = list(race(short(V, 8), tokens)), list(race(short(V, 8), tokens, range(1, 9)))
    assert [lap.step for lap in looked] == list(range(1, 9)) and len(blind) == 1
    assert blind[-1].loss == looked[-1].loss
    assert looked[-1].loss < looked[0].loss


def test_another_seed_is_another_race(tokens):
    *_, a = race(short(tokens.vocab_size, 3), tokens)
    *_, b = race(short(tokens.vocab_size, 3, seed=1), tokens)
    assert a.loss != b.loss


def test_looking_is_not_timed(tokens, monkeypatch):
    def slow(*args, **how):
        time.sleep(0.5)
        return 1.0
    monkeypatch.setattr(module, "validate", slow)
    start = time.perf_counter()
    *_, last = race(short(tokens.vocab_size, 3), tokens, (1, 2, 3))
    assert time.perf_counter() - start - last.wall > 1.4


@pytest.mark.parametrize("shape", [(448, 64), (64, 320)])
def test_all_directions_become_alike(shape):
    torch.manual_seed(0)
    G = torch.randn(shape) * torch.logspace(0, -1, shape[1])
    U, S, V = torch.linalg.svd(G, full_matrices=False)
    X, nearest = orthogonalize(G, torch.float32, POLAR), U @ V
    values = torch.linalg.svdvals(X)
    alike = torch.nn.functional.cosine_similarity
    assert 0.1 < values.min() and values.max() < 2
    assert alike(X.ravel(), nearest.ravel(), 0) > 0.85


def test_muon_takes_the_matrices_inside_and_adamw_all_else():
    model = Racer(20, [SideBySide(32, 1, 64)], 32, 1)
    adamw, muon = optimizers_of(model, RECIPE)
    inside = {id(p) for p in muon.param_groups[0]["params"]}
    layer = model.layers[0]
    assert isinstance(muon, QuickMuon)
    assert inside == {id(m.weight) for m in (layer.in_proj, layer.out_proj, model.widen)}
    assert len(inside) + len(adamw.param_groups[0]["params"]) == len(list(model.parameters()))


def test_no_table_where_none_is_wanted():
    model = Racer(20, [SideBySide(32, 1, 64)], 32, 1, before=0, pairs=0)
    assert len(model.tables) == 1 and model.pairs is None
    assert model(torch.randint(20, (1, 5))).shape == (1, 5, 20)


def test_result_says_whether_it_was_met():
    met, missed = Result(2.0, 1.5, 1.6, 50.0), Result(2.0, 1.7, 1.6, 50.0)
    assert met.met and not missed.met
    assert "25.0 times faster" in str(met) and "missed" in str(missed) and "missed" not in str(met)


def shorten(monkeypatch, theirs, ours):
    monkeypatch.setattr(module, "REFERENCE", replace(module.REFERENCE, steps=theirs))
    monkeypatch.setattr(module, "RECIPE", replace(module.RECIPE, steps=ours))


def test_the_command_ends_with_one_line(text, monkeypatch, capsys):
    shorten(monkeypatch, theirs=4, ours=30)
    assert run_app(["speedrun", "--data", str(text), "--seed", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "target" in said and "times faster" in said


def test_a_missed_target_is_exit_code_1(text, monkeypatch, capsys):
    shorten(monkeypatch, theirs=4, ours=30)
    known = tuple(race_text(str(text))[1].identity().values())
    monkeypatch.setitem(TARGETS, known, 0.1)
    assert run_app(["speedrun", "--data", str(text)]) == 1
    assert "0.100 (missed)" in capsys.readouterr().out


def test_a_text_that_is_not_there_is_exit_code_2(capsys):
    assert run_app(["speedrun", "--data", "nowhere.txt"]) == 2
    assert "nowhere.txt" in capsys.readouterr().err


def test_a_plan_belongs_to_its_contestant():
    a, b = fastest(30, seed=1), reference(30, seed=2)
    assert isinstance(a, Entry) and (a.config.seed, b.config.seed) == (1, 2)
    assert a.config.steps == RECIPE.steps and b.config.steps == module.REFERENCE.steps
