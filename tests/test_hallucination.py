"What a model makes up: counts, exact probabilities, calibration, refusals."
import json
import math
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_nb.hallucination import (
    BOOK, CHARACTERS, PLACES, Birthplaces, Said, as_tokens, by_times, good_turing, how_true, invent,
    learner, miscalibration, place_tokens, points_won, question_rows, refuse_below, study,
    true_place, what_counting_says, what_it_says, words_of)
from gpt_nb.ngram import NGram
from gpt_nb.sampling import generate

LANGS = "en", "zh"


@pytest.fixture(scope="module", params=LANGS)
def world(request): return Birthplaces(request.param, people=300)


@pytest.fixture(scope="module")
def model(world):
    "One that has read a little."
    model, text = learner(world), map(world.fact, world.draw(400))
    study(model, as_tokens(world, text), steps=25)
    return model


def perfect(world, shares):
    "A speaker who says the facts, each with its share."
    said = Said(np.zeros(4900), np.zeros((4900, 10)))
    said.name[world.who], said.place[world.who, world.born] = shares, 1
    return said


def test_the_share_that_stands_once_is_that_of_leaving_one_out():
    assert good_turing([2, 2, 1]) == 1 / 5
    rng = np.random.default_rng(0)
    for _ in range(20):
        text = rng.integers(30, size=40).tolist()
        news = [fact not in text[:i] + text[i + 1:] for i, fact in enumerate(text)]
        assert good_turing(np.bincount(text)) == pytest.approx(np.mean(news))


def test_the_estimate_is_right_on_average():
    "Over all texts of n: the share that stands once is, on average, what n - 1 leave unread."
    p, n = np.array([0.5, 0.3, 0.2]), 4
    once = missing = 0.0
    for text in product(range(3), repeat=n):
        once += p[list(text)].prod() * good_turing(np.bincount(text, minlength=3))
    for text in product(range(3), repeat=n - 1):
        missing += p[list(text)].prod() * p[np.bincount(text, minlength=3) == 0].sum()
    assert once == pytest.approx(missing)
    assert missing == pytest.approx((p * (1 - p) ** (n - 1)).sum())


def test_texts_are_drawn_as_the_shares_say():
    world, n = Birthplaces(people=500), 400
    p, counts = world.share, [world.count(world.draw(n, seed)) for seed in range(200)]
    assert np.mean([good_turing(c) for c in counts]) == pytest.approx(
        (p * (1 - p) ** (n - 1)).sum(), abs=0.006)
    assert np.mean([p[c == 0].sum() for c in counts]) == pytest.approx(
        (p * (1 - p) ** n).sum(), abs=0.006)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=50).filter(sum))
def test_the_share_that_stands_once_is_a_share(counts):
    assert 0 <= good_turing(counts) <= 1
    assert good_turing(np.array(counts) * 2) == 0      # copies hide what is missing
    assert good_turing([*counts, 0, 0]) == good_turing(counts)


@pytest.mark.parametrize("counts", [
    [], [0, 0], [3, -1], [0.2, 0.8], [float("nan"), 1], ["Mora", "Bako"], {"Mora": 2}, None])
def test_counts_that_are_none(counts):
    with pytest.raises(ValueError, match="how often each fact stands"): good_turing(counts)


def test_names_and_places_can_be_told_apart(world):
    assert len(set(world.names)) == 4900 and len(set(CHARACTERS)) == 70
    assert len(set(invent(world.lang, np.random.default_rng(5)))) == 4900
    assert len(set(world.who)) == 300 and world.share.sum() == pytest.approx(1)
    ends, rows = place_tokens(world), question_rows(world)
    assert len(set(ends)) == 10 and len({tuple(row) for row in rows.tolist()}) == 4900
    assert world.tok.unk_id not in rows and world.tok.unk_id not in ends
    for person in (0, 299):
        ids = [world.tok.end_id, *world.tok.encode(world.fact(person))]
        assert ids[:rows.shape[1]] == rows[world.who[person]].tolist()
        assert ids[rows.shape[1]] == ends[world.born[person]]


def test_books_have_no_unknown_words(world):
    line = world.fact(7)
    book = BOOK[world.lang].format(line=line, question=world.fact(8))
    assert world.tok.unk_id not in world.tok.encode(book)
    assert world.tok.decode(world.tok.encode(book)) == book


def test_no_world_of_this_kind():
    with pytest.raises(ValueError, match="'fr'"): Birthplaces("fr")
    for people in (0, 4901):
        with pytest.raises(ValueError, match=str(people)): Birthplaces(people=people)


def test_a_world_follows_from_its_seed():
    one, again, other = Birthplaces(seed=1), Birthplaces(seed=1), Birthplaces(seed=2)
    assert [one.fact(i) for i in range(50)] == [again.fact(i) for i in range(50)]
    assert [one.fact(i) for i in range(50)] != [other.fact(i) for i in range(50)]
    assert (one.draw(100, 3) == again.draw(100, 3)).all()


def test_what_stands_twice_is_kept(world):
    tokens = as_tokens(world, [world.fact(0)] * 3, [world.fact(1)])
    assert (tokens.train == tokens.end_id).sum() == 4 and (tokens.val == tokens.end_id).sum() == 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.3])
def test_probabilities_are_those_of_one_step_after_another(world, model, temperature):
    said, ends = what_it_says(model, world, temperature), place_tokens(world)
    for name in (0, 1234, int(world.who[0])):
        ids, p = question_rows(world)[name].tolist(), 1.0
        for t in range(1, len(ids)):
            logits = model(torch.tensor([ids[:t]]))[0, -1].double()
            p *= (logits / temperature).softmax(-1)[ids[t]].item()
        assert said.name[name] == pytest.approx(p, rel=1e-4)
        last = (model(torch.tensor([ids]))[0, -1].double() / temperature).softmax(-1)
        assert np.allclose(said.place[name], last[ends].detach(), rtol=1e-4)


def test_all_statements_together_are_no_more_than_certain(world, model):
    for temperature in (0, 0.7, 1.0):
        said = what_it_says(model, world, temperature)
        assert 0 <= said.statements.sum() <= 1 + 1e-9
        assert sum(how_true(said, world)) == pytest.approx(1)
        assert min(how_true(said, world)) > -1e-9


def test_at_temperature_0_it_says_what_greedy_decoding_says(world, model):
    said = what_it_says(model, world, 0)
    assert set(np.unique(said.place)) <= {0.0, 1.0}
    row = generate(model, [world.tok.end_id], question_rows(world).shape[1], temperature=0)
    statements = np.argwhere(said.statements == 1)
    assert len(statements) <= 1
    for name, place in statements:
        assert row == [*question_rows(world)[name].tolist(), place_tokens(world)[place]]


def test_drawn_texts_are_judged_as_computed(world, model):
    "Two thousand texts, drawn token by token, beside the exact shares."
    length = question_rows(world).shape[1]
    rows = generate(model, [[world.tok.end_id]] * 2000, length, seed=1)
    said = what_it_says(model, world)
    names = {tuple(row): i for i, row in enumerate(question_rows(world).tolist())}
    places = {end: k for k, end in enumerate(place_tokens(world).tolist())}
    truths = dict(zip(world.who.tolist(), world.born.tolist()))
    found = dict(true=0, false=0, nobody=0, nothing=0)
    for row in rows:
        name, place = names.get(tuple(row[:length])), places.get(row[length])
        if name is None or place is None: found["nothing"] += 1
        elif name not in truths: found["nobody"] += 1
        else: found["true" if truths[name] == place else "false"] += 1
    for kind, exact in how_true(said, world)._asdict().items():
        assert found[kind] / 2000 == pytest.approx(exact, abs=0.04), kind


def test_counting_says_the_same_as_its_own_log_probabilities(world):
    text = as_tokens(world, map(world.fact, world.draw(300)))
    gram = NGram(8).fit(text.train, world.tok.vocab_size, end_id=world.tok.end_id)
    said = what_counting_says(gram, world)
    for name in (3, int(world.who[0])):
        for k in (0, 9):
            ids = [*question_rows(world)[name], place_tokens(world)[k]]
            logs = gram.log_probs(ids)
            assert said.statements[name, k] == pytest.approx(np.exp(logs[1:].sum()), rel=1e-6)
    assert sum(how_true(said, world)) == pytest.approx(1)


def test_who_only_recites_never_errs_and_pays_for_it():
    world = Birthplaces()
    counts = world.count(world.draw(1000))
    reciter = perfect(world, counts / counts.sum())
    missing = world.share[counts == 0].sum()
    assert how_true(reciter, world).true == pytest.approx(1)
    assert miscalibration(reciter, world) >= missing - 1e-9
    assert miscalibration(perfect(world, world.share), world) == pytest.approx(0, abs=1e-12)


@given(st.integers(0, 10**6), st.floats(0.01, 1))
@settings(max_examples=12, deadline=None)
def test_less_is_false_only_at_the_price_of_miscalibration(seed, kept):
    "A speaker who keeps a share for new names: what it falls short of the missing mass, it pays."
    world = Birthplaces(people=400, seed=seed % 50)
    counts = world.count(world.draw(300, seed))
    seen, missing = counts > 0, world.share[counts == 0].sum()
    said = perfect(world, (1 - kept) * counts / counts.sum())
    new = np.setdiff1d(np.arange(4900), world.who[seen])
    said.name[new], said.place[new] = kept / len(new), 0.1
    judged, pays = how_true(said, world), miscalibration(said, world)
    assert 0 <= pays <= 1
    assert judged.false + judged.nobody + judged.true == pytest.approx(1)
    lucky = kept * (~seen).sum() / len(new) / 10      # new names that are somebody's, and right
    assert judged.true == pytest.approx(1 - kept + lucky)
    if kept / len(new) / 10 < 0.4 * (1 - kept) / counts.sum():   # in bins of their own
        assert judged.false + judged.nobody + lucky >= missing - pays - 1e-9


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.floats(0.01, 1)), min_size=1,
                max_size=40))
def test_refusing(rows):
    sure, correct, share = map(np.array, zip(*rows))
    share = share / share.sum()
    found = refuse_below(sure, correct, share)
    assert (np.diff(found.coverage) > 0).all() and (np.diff(found.error) >= 0).all()
    assert found.coverage[-1] == pytest.approx(1)
    assert found.error[-1] == pytest.approx(share[~correct].sum())
    assert (np.diff(found.threshold) <= 0).all() and (found.error <= found.coverage + 1e-12).all()
    assert (np.diff(points_won(found, 0)) >= -1e-12).all()       # a free guess never costs anything
    for penalty in (0.5, 3):
        expected = share[correct].sum() - penalty * share[~correct].sum()
        assert points_won(found, penalty)[-1] == pytest.approx(expected)


def test_the_threshold_of_one_who_means_what_it_says():
    "Right with the probability it gives: the most points lie where penalty / (1 + penalty) is."
    sure = np.linspace(0, 1, 101).repeat(100)
    correct = np.tile(np.arange(100) / 100, 101) < sure - 1e-9
    for penalty in (1 / 3, 1, 3):
        found = refuse_below(sure, correct, np.full(len(sure), 1 / len(sure)))
        # within equal sureness the right ones come in any order: look at the last of each
        last = np.flatnonzero(np.append(np.diff(found.threshold) < 0, True))
        best = found.threshold[last][points_won(found, penalty)[last].argmax()]
        assert best == pytest.approx(penalty / (1 + penalty), abs=0.02)


def test_means_by_how_often_a_fact_stands():
    counts = np.array([0, 0, 1, 2, 4, 11])
    found = by_times(np.array([1.0, 0, 2, 3, 4, 5]), counts)
    assert found == {"never": 0.5, "once": 2, "twice": 3, "3 to 5": 4, "oftener": 5}
    assert by_times([1.0, 3], [1, 1]) == {"once": 2}


def test_answers_are_right_where_the_true_place_is_said(world):
    assert (true_place(perfect(world, world.share), world) == 1).all()
    wrong = perfect(world, world.share)
    wrong.place[:] = np.roll(wrong.place, 1, axis=1)
    assert (true_place(wrong, world) == 0).all()
    assert how_true(wrong, world).false == pytest.approx(1)


def test_what_stands_often_is_learned_first_and_the_unread_never():
    world = Birthplaces(people=300)
    drawn, learned = world.draw(400), learner(world)
    counts, tokens = world.count(drawn), as_tokens(world, map(world.fact, drawn))
    for sitting in range(3): study(learned, tokens, seed=sitting)
    found = by_times(true_place(what_it_says(learned, world), world), counts)
    assert found["oftener"] > 0.8 and found["oftener"] > found["once"] > found["never"]
    assert found["never"] < 0.2


def test_places_of_both_languages():
    assert {len(places) for places in PLACES.values()} == {10}
    assert len({place[0] for place in PLACES["zh"]}) == 10
    assert not {place[0] for place in PLACES["zh"]} & set(CHARACTERS)


def test_the_kept_results_are_of_these_worlds():
    "Three seeds of everything, and shares that can be counted again."
    path = Path(__file__).parent.parent / "nbs" / "results" / "hallucination.json"
    results = json.loads(path.read_text("utf-8"))
    assert path.stat().st_size < 60_000
    kinds = {name.rpartition(" ")[0] for name in results}
    assert set(results) == {f"{kind} {seed}" for kind in kinds for seed in range(3)}
    assert {"series en", "series zh", "width 64", "same people 2000"} <= kinds
    for found in results.values():
        if "temperatures" in found:   # equally sure of all: who answers half answers the rest too
            cold = found["temperatures"]["0.0"]["refused"]
            assert cold["0.5"] == cold["0.7"] == cold["0.8"]
        world = Birthplaces(found["lang"], found["people"], found["seed"])
        counts = world.count(world.draw(found["n"], found["seed"]))
        assert good_turing(counts) == pytest.approx(found["once"], abs=1e-4)
        assert world.share[counts == 0].sum() == pytest.approx(found["missing"], abs=1e-4)


def test_texts_that_are_none_of_this_world(world):
    foreign = Birthplaces("zh" if world.lang == "en" else "en", people=5)
    with pytest.raises(TypeError, match="list of texts"): as_tokens(world, world.fact(0))
    with pytest.raises(TypeError, match="list of texts"): as_tokens(world, [], world.fact(0))
    for texts in ([foreign.fact(0)], [world.fact(0), foreign.fact(1)]):
        with pytest.raises(ValueError, match="words that Birthplaces"): as_tokens(world, texts)


def test_one_world_does_not_change_another(world):
    "A place more in one, as an exercise wants it."
    one = Birthplaces(world.lang, people=20)
    one.places.append("fog" if world.lang == "en" else "雾")
    one.tok = words_of(one)
    assert len(PLACES[world.lang]) == len(Birthplaces(world.lang, people=20).places) == 10
    assert len(set(place_tokens(one))) == 11
    said = what_it_says(learner(one), one)
    assert said.place.shape == (4900, 11) and sum(how_true(said, one)) == pytest.approx(1)
    assert one.tok.unk_id not in as_tokens(one, [one.text(3, 10)]).train


def test_a_sitting_stays_where_the_questions_are(world):
    "A GPU, if there is one, would leave the model where no question reaches it."
    run = study(learner(world), as_tokens(world, map(world.fact, range(50))), steps=1)
    assert run.config.device == "cpu"
    assert {p.device.type for p in run.model.parameters()} == {"cpu"}


@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_miscalibration_of_a_loop(seed):
    "Each statement by itself into a bin; what it says below 2^-60 is one bin."
    world, rng = Birthplaces(people=30), np.random.default_rng(seed)
    said = Said(rng.exponential(size=4900) ** 4 * (rng.random(4900) < 0.3), rng.random((4900, 10)))
    truths, total = dict(zip(world.who, zip(world.born, world.share))), said.statements.sum()
    says, holds = Counter(), Counter()
    for name, row in enumerate(said.statements):
        place, share = truths.get(name, (None, 0))
        for k, mass in enumerate(row / total):
            bin = math.floor(math.log2(mass)) if mass > 2.0**-60 else -60
            says[bin] += mass
            holds[bin] += share if k == place else 0
    expected = sum(abs(says[bin] - holds[bin]) for bin in says) / 2
    assert miscalibration(said, world) == pytest.approx(expected, abs=1e-9)


def test_who_says_nothing_cannot_be_weighed():
    silent = Said(np.zeros(4900), np.zeros((4900, 10)))
    with pytest.raises(ValueError, match="no statement"): miscalibration(silent, Birthplaces())


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.9, 1.0]), st.booleans(),
                          st.integers(1, 9)), min_size=1, max_size=30), st.randoms())
def test_the_equally_sure_answer_together(rows, random):
    "One entry a threshold, whatever the order: those who are at least so sure."
    curves = []
    for _ in range(2):
        sure, correct, share = map(np.array, zip(*rows))
        curves.append(refuse_below(sure, correct, share))
        random.shuffle(rows)
    for one, other in zip(*curves): assert np.allclose(one, other)
    assert curves[0].threshold.tolist() == sorted(set(sure), reverse=True)
    for threshold, coverage, error in zip(*curves[0]):
        answered = sure >= threshold
        assert coverage == pytest.approx(share[answered].sum() / share.sum())
        assert error == pytest.approx(share[answered & ~correct].sum() / share.sum())


def test_at_temperature_0_there_is_nothing_to_choose_by(world, model):
    "It is sure of every place that it names: they are answered together."
    place = what_it_says(model, world, 0).place[world.who]
    sure, correct = place.max(1), place.argmax(1) == world.born
    found = refuse_below(sure, correct, world.share)
    assert found.threshold.tolist() == sorted(set(sure), reverse=True) and len(found.error) <= 2
    named = sure == 1   # else a word that is no place
    assert found.coverage[0] == pytest.approx(world.share[named].sum())
    assert found.error[0] == pytest.approx(world.share[named & ~correct].sum())


@pytest.mark.parametrize("rows", [([], [], []), ([0.5, 0.4], [True], [1, 1]),
                                  ([0.5, 0.4], [True, False], [1, 1, 1])])
def test_refusing_wants_three_numbers_a_question(rows):
    with pytest.raises(ValueError, match="three for each question"): refuse_below(*rows)
