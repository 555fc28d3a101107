"Probes, their controls, steering and the exact belief."
import random

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.probing import (
    Prospects, Probe, Site, bare_scene, beliefs, beside, by_position, class_means,
    control_labels, directions, explained, fact_in, fit_probe, fit_ridge, judge_ending, last_tokens,
    numbered, otherwise, picked, push, read_belief, read_stories, share_right, sites, states_read,
    steer, streams, told_chance)
from gpt_nb.tales import ASK, RECAPS, Checker, Event, Scene, Tales, unit
from gpt_nb.tokenizer import BPETokenizer, CharTokenizer, WordTokenizer

LANGS_LEVELS = [(lang, level) for lang in ("en", "zh") for level in (1, 2, 3)]


def rng(seed=0): return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def lessons():
    "Stories as a small model with random weights reads them."
    world = Tales()
    tok = WordTokenizer.train(world.texts(400, seed=1), 400)
    torch.manual_seed(1)
    model = GPT(GPTConfig("qwen3", tok.vocab_size, 64, n_layer=2, n_head=2, d_model=16)).eval()
    return read_stories(world, model, tok, 60)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_probe_is_scikit_learns_logistic_regression(classes):
    x = torch.randn(200, 6, generator=rng(), dtype=torch.float64) * torch.arange(1, 7) + 3
    y = (x @ torch.randn(6, classes, generator=rng(1), dtype=torch.float64)).argmax(1)
    y[::7] = torch.randint(classes, y[::7].shape, generator=rng(2))
    z = (x - x.mean(0)) / x.std(0, correction=0)
    # two classes have one row of weights there and two here, w and -w: half the cost
    c = (1 if classes > 2 else 2) / (0.01 * len(x))
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(z, y)
    ours = fit_probe(x, y, l2=0.01, steps=2_000)
    torch.testing.assert_close(ours(x).softmax(-1), torch.tensor(theirs.predict_proba(z)),
                               atol=2e-4, rtol=0)


def test_a_ridge_is_scikit_learns():
    x = torch.randn(100, 5, generator=rng(), dtype=torch.float64) * 3 + 1
    y = torch.randn(100, 2, generator=rng(1), dtype=torch.float64) + x[:, :2]
    z = (x - x.mean(0)) / x.std(0, correction=0)
    theirs = Ridge(alpha=0.1 * len(x)).fit(z, y)
    torch.testing.assert_close(fit_ridge(x, y, 0.1)(x), torch.tensor(theirs.predict(z)))


def test_chances_may_be_answers():
    x = torch.eye(2).repeat(50, 1)
    p = torch.tensor([[0.8, 0.2], [0.3, 0.7]]).repeat(50, 1)
    probe = fit_probe(x, p, l2=0)
    torch.testing.assert_close(probe(x[:2]).softmax(-1), p[:2], atol=1e-3, rtol=0)


def test_a_number_that_never_varies_does_no_harm():
    x = torch.randn(50, 3, generator=rng())
    y = (x[:, 0] > 0).long()
    x[:, 2] = 5.0
    probe = fit_probe(x, y)
    assert probe(x).isfinite().all() and (probe(x).argmax(-1) == y).float().mean() > 0.9
    assert fit_ridge(x, x[:, :1])(x).isfinite().all()


@pytest.mark.parametrize("lang, level", LANGS_LEVELS)
def test_states_are_those_of_the_checker_and_the_questions(lang, level):
    world = Tales(lang, level)
    stories = [world.sample(seed) for seed in range(60)]
    tok = WordTokenizer.train([s.text for s in stories], 2_000) if lang == "en" \
        else CharTokenizer.train([s.text for s in stories])
    for story in stories:
        states = states_read(story, tok)
        ids = tok.encode(story.text)
        assert len(states) == len(ids) + 1 and states[0] == states[1] == Scene()
        reader = Checker(lang)
        text, scenes, sentence = story.text, [Scene()], []
        for word in unit(lang).findall(text):
            sentence.append(word)
            if word in (".", "。"):
                reader.sentence(sentence)
                scenes.append(reader.scene)
                sentence = []
        full = [tok.decode([token]).strip() in (".", "。") for token in ids]
        stops = [0] + [i for i, stops_here in enumerate(full, 1) if stops_here]
        assert [states[i].things for i in stops] == [scene.things for scene in scenes]
        assert [[p.at for p in states[i].people] for i in stops] == \
            [[p.at for p in scene.people] for scene in scenes]
        answers = {question.text: question.answer for question in story.questions}
        thing, wisher = (getattr(story.known[slot], lang)
                         for slot in (("thing", 0), ("name", story.scene.wish[0])))
        holder = fact_in(story, states[-1], "holder")
        assert answers.get(ASK[lang]["with"].format(thing), "nobody") == holder
        yes = answers[ASK[lang]["true"].format(wisher)] == ASK[lang]["yes"]
        assert fact_in(story, states[-1], "granted") == ("yes" if yes else "no")
        places = [answers[ASK[lang]["at"].format(getattr(story.known["name", i], lang))]
                  for i in (0, 1)]
        assert fact_in(story, states[-1], "together") == ("yes" if len(set(places)) == 1 else "no")


def test_states_do_not_depend_on_the_tokenizer():
    for lang in ("en", "zh"):
        world = Tales(lang)
        texts = world.texts(100, seed=1)
        story = world.sample(3)
        chars = CharTokenizer.train([*texts, story.text])
        by_char = states_read(story, chars)[1:]
        bpe = BPETokenizer.train([*texts, story.text], 600)
        at = 0
        for i, scene in zip(bpe.encode(story.text), states_read(story, bpe)[1:]):
            at += len(bpe.token_bytes(i))
            whole = story.text.encode()[:at].decode(errors="ignore")
            if whole.encode() == story.text.encode()[:at]: assert scene == by_char[len(whole) - 1]


def test_tokens_that_do_not_spell_the_story_are_named():
    world = Tales()
    tok = WordTokenizer.train(["Once a kind girl lived ."], 20)
    with pytest.raises(ValueError, match="token|unk"): states_read(world.sample(0), tok)


def test_sites_stand_at_their_word(lessons):
    tok = lessons.tok
    for site in sites(tok, lessons.stories, "holder", "Now"):
        assert tok.decode([lessons.ids[site.row, site.at].item()]).strip() == "Now"
        story = lessons.stories[site.row]
        assert site.label == fact_in(story, story.scene, "holder")
        assert site.word == story.known["thing", 0].en
    with pytest.raises(ValueError, match="Zelda"): sites(tok, lessons.stories, "holder", "Zelda")
    with pytest.raises(ValueError, match="'mood'.*holder"):
        sites(tok, lessons.stories, "mood", "Now")


def test_a_control_is_fixed_by_the_word():
    words, labels = list("abcabcabdd"), ["yes"] * 5 + ["no"] * 5
    given = control_labels(words, labels, seed=3)
    assert given == control_labels(words, labels, seed=3) and set(given) <= {"yes", "no"}
    assert len({(word, label) for word, label in zip(words, given)}) == len(set(words))
    assert len({tuple(control_labels(words, labels, seed)) for seed in range(20)}) > 3
    # labels come as often as the true ones, over many words
    many = control_labels(list(map(str, range(4_000))), ["yes"] * 3 + ["no"])
    assert abs(many.count("yes") / 4_000 - 0.75) < 0.04


def test_a_window_holds_four_tokens_and_no_more():
    ids = torch.tensor([[5, 1, 2, 3, 4, 5]])
    x = last_tokens(ids, [Site(0, 5, "", ""), Site(0, 1, "", "")], 6)
    assert x.shape == (2, 24) and x[0].sum() == 4 and x[1].sum() == 2
    assert x[0].view(4, 6).argmax(1).tolist() == [5, 4, 3, 2]
    other = ids.clone().index_fill_(1, torch.tensor([0, 1]), 0)
    changed = last_tokens(other, [Site(0, 5, "", "")], 6)
    torch.testing.assert_close(changed, x[:1])


def test_random_labels_are_not_read_on_other_stories():
    x = torch.randn(600, 20, generator=rng())
    labels = ["yes" if v else "no" for v in (torch.rand(600, generator=rng(1)) < 0.5).tolist()]
    assert 0.35 < share_right(x, labels, range(600), 400) < 0.65
    told = ["yes" if v > 0 else "no" for v in x[:, 0].tolist()]
    assert share_right(x, told, range(600), 400) > 0.9
    for cut in (0, 600):
        with pytest.raises(ValueError, match="cut"): share_right(x, told, range(600), cut)


def test_streams_are_those_of_the_model(lessons):
    from gpt_nb.model import hidden_states
    states = hidden_states(lessons.model, lessons.ids)
    torch.testing.assert_close(lessons.stream[0], states[1])
    assert lessons.stream.shape == (2, *lessons.ids.shape, 16)
    assert not torch.allclose(lessons.stream, lessons.untrained)
    pair = streams(lessons.model, lessons.ids[:7], batch_size=3)
    torch.testing.assert_close(pair, lessons.stream[:, :7], atol=1e-5, rtol=1e-4)


def test_every_baseline_stands_beside_a_figure(lessons):
    found = sites(lessons.tok, lessons.stories, "holder", "Now")
    shares = beside(lessons, found, 40, controls=2)
    assert list(shares) == ["majority", "window", "untrained", "control", "probe", "best"]
    assert all(0 <= share <= 1 for share in shares.values())
    table = np.array(by_position(lessons.stream, found, [-1, 0, 1], 40))
    assert table.shape == (2, 3) and abs(table[:, 1].max() - shares["probe"]) < 1e-9


def test_a_push_moves_the_last_token_of_what_is_read():
    change = push(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    x = torch.zeros(2, 3, 2)
    assert change(x)[:, -1].tolist() == [[1, 2], [3, 4]] and not change(x)[:, :-1].any()
    assert not x.any() and not change(torch.zeros(2, 1, 2)).any()
    with pytest.raises(ValueError, match="do not fit"): change(torch.zeros(3, 3, 2))


def test_means_are_taken_class_by_class():
    means = class_means(torch.tensor([[1.0], [3.0], [10.0]]), torch.tensor([0, 0, 1]))
    assert means.tolist() == [[2], [10]]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_other_world_is_judged_by_the_checker(lang):
    world, seen = Tales(lang), set()
    for seed in range(150):
        story = world.sample(seed)
        k = next(i for i, event in enumerate(story.events) if event.kind in RECAPS)
        ends = [i for i, c in enumerate(story.text) if c in ".。"]
        begin, ending = story.text[:ends[k - 1] + 1], story.text[ends[k - 1] + 1:]
        assert judge_ending(world, begin, ending) == (True, True)
        assert not judge_ending(world, begin, ending[:-1]).formed
        def granted(scene): return otherwise(story, scene, "granted")
        assert judge_ending(world, begin, ending, granted) == (True, False)
        if story.events[k].kind in ("has", "lies"):
            def holder(scene): return otherwise(story, scene, "holder")
            assert not judge_ending(world, begin, ending, holder).holds
            seen.add(story.events[k].kind)
        assert granted(story.scene).granted() != story.scene.granted()
    assert seen == {"has", "lies"}
    with pytest.raises(ValueError, match="together"): otherwise(story, story.scene, "together")


def test_steering_by_nothing_changes_nothing(lessons):
    found = sites(lessons.tok, lessons.stories, "granted", "Only")
    others = ["yes" if site.label == "no" else "no" for site in found]
    pushes = directions(lessons, found, others, 0, 40)
    assert set(pushes) == {"probe", "means", "untrained", "random"}
    lengths = torch.stack([x.norm(dim=1) for x in pushes.values()])
    torch.testing.assert_close(lengths, lengths[:1].expand_as(lengths), rtol=1e-4, atol=1e-5)
    some = [0, 1, 2]
    still = steer(lessons, [found[i] for i in some], 0 * pushes["means"][some], 0, "granted")
    assert all(0 <= share <= 1 for share in still)


@pytest.mark.parametrize("lang, level", [("en", 1), ("zh", 1), ("en", 2)])
def test_the_belief_is_what_many_stories_do(lang, level):
    world, rng = Tales(lang, level), random.Random(5)
    outlook = Prospects(world, lambda scene: float(scene.granted()))
    n = 3_000 if level == 1 else 1_200
    stories = [world.sample(rng.randrange(10**9)) for _ in range(n)]
    exact, came = [], []
    for story in stories:
        k = next(i for i, event in enumerate(story.events) if event.kind.startswith("wish"))
        exact.append(outlook.at(story.scenes[k + 1]))
        came.append(story.scene.granted())
    exact, came = np.array(exact), np.array(came)
    error = np.sqrt((exact * (1 - exact)).sum()) / n
    assert abs(exact.mean() - came.mean()) < 4 * error
    for low, high in ((0, 0.4), (0.4, 0.7), (0.7, 1.01)):   # calibrated where it is low and high
        part = (exact >= low) & (exact < high)
        if part.sum() < 50: continue
        error = np.sqrt((exact[part] * (1 - exact[part])).sum()) / part.sum()
        assert abs(exact[part].mean() - came[part].mean()) < 4 * error + 1e-9
    assert abs(outlook("") - came.mean()) < 4 * 0.5 / np.sqrt(n)
    lost = np.mean([story.scene.things[0][0] == "in" for story in stories])
    lies = Prospects(world, lambda scene: float(scene.things[0][0] == "in"))
    assert abs(lies("") - lost) < 4 * 0.5 / np.sqrt(n)


def test_beliefs_add_up():
    world = Tales()
    ends = [Prospects(world, lambda scene, place=place: float(scene.things[0] == place))
            for place in (("with", 0), ("with", 1))]
    lies = Prospects(world, lambda scene: float(scene.things[0][0] == "in"))
    story = world.sample(8)
    words = story.text.split(" ")
    for i in range(0, len(words), 3):
        prefix = " ".join(words[:i + 1])
        assert abs(sum(outlook(prefix) for outlook in (*ends, lies)) - 1) < 1e-9


def test_the_belief_is_a_martingale():
    "The chance after a word is the mean of the chances after each next word."
    world = Tales()
    outlook = Prospects(world, lambda scene: float(scene.granted()))
    words = world.sample(11).text.split(" ")
    for i in (3, 18, 26, 30, 32, 34):
        prefix = " ".join(words[:i])
        after = sum(p * outlook(prefix + (word if word in ".,;" else " " + word))
                    for word, p in world.next(prefix).items())
        assert abs(after - outlook(prefix)) < 1e-9


def test_the_belief_ends_in_what_is_so():
    for lang, level in LANGS_LEVELS[:2]:
        world = Tales(lang, level)
        outlook = Prospects(world, lambda scene: float(scene.granted()))
        for seed in range(20):
            story = world.sample(seed)
            assert outlook(story.text) == float(story.scene.granted())


def test_no_beginning_of_a_story_is_named():
    outlook = Prospects(Tales(), lambda scene: 1.0)
    for wrong in ("Once upon a time", "Now", "One day he"):
        with pytest.raises(ValueError, match="no story"): outlook(wrong)


def test_bare_scenes_keep_what_matters():
    world = Tales(level=2)
    for seed in range(10):
        for scene in world.sample(seed).scenes:
            if scene.recaps or scene.wish is None: continue
            def by_kind(scene):
                chances = {}
                for event, p in world._chances(scene).items():
                    if event.kind in RECAPS: event = Event("recap")
                    event = event._replace(topic=None)
                    chances[event] = chances.get(event, 0) + p
                return chances
            a, b = by_kind(scene), by_kind(bare_scene(scene))
            assert a.keys() == b.keys() and all(abs(a[k] - b[k]) < 1e-12 for k in a)


def test_a_belief_is_read(lessons):
    outlook = Prospects(lessons.world, lambda scene: float(scene.granted()))
    belief = beliefs(lessons.tok, lessons.stories, outlook)
    assert belief.chance.shape == (len(belief.found), 1) and len(belief.scenes) == len(belief.found)
    assert 0 <= belief.chance.min() and belief.chance.max() <= 1
    assert set(read_belief(lessons, belief, 40)) == \
        {"window", "untrained", "logits", "probe", "hard state"}
    assert 0 <= told_chance(lessons, belief.found[0], outlook.fact, n=3) <= 1


def test_a_perfect_reading_explains_all():
    x = torch.randn(100, 3, generator=rng())
    assert explained(x, x @ torch.ones(3, 1), range(100), 60, 1e-6) > 0.999
    assert explained(x, torch.randn(100, 1, generator=rng(2)), range(100), 60) < 0.2


def test_answers_that_do_not_fit_are_named():
    x = torch.zeros(4, 2)
    for y in (torch.zeros(3, dtype=torch.long), torch.zeros(4), torch.tensor([0, 1, -1, 0])):
        with pytest.raises(ValueError, match="answers|give"): fit_probe(x, y)
    with pytest.raises(ValueError, match="vectors"): fit_probe(x[0], torch.zeros(2).long())
    with pytest.raises(ValueError, match=r"\(4, C\)"): fit_ridge(x, torch.zeros(4))
    assert picked(torch.arange(6.0).view(1, 3, 2), [Site(0, 1, "", "")]).tolist() == [[2, 3]]
    assert numbered(["b", "a", "b"]).tolist() == [1, 0, 1]
    assert Probe(x, x[0, :1].expand(4))(x).shape == (4, 4)


def test_stories_that_do_not_fit_are_told_and_no_seed_is_touched():
    tok = load_tokenizer("growing/003000")
    short = GPT(GPTConfig("qwen3", tok.vocab_size, 16, n_layer=1, n_head=2, d_model=8))
    with pytest.raises(ValueError, match="context of 16"): read_stories(Tales(), short, tok, 3)
    for n in (0, -1, 2.5):
        with pytest.raises(ValueError, match="from 1 on"): read_stories(Tales(), short, tok, n)


def test_numbers_that_cannot_be_fitted():
    x, y = torch.randn(20, 3), torch.arange(20) % 2
    broken = x.clone()
    broken[0, 0] = float("nan")
    for call, words in ((lambda: fit_probe(broken, y), "nan"),
                        (lambda: fit_ridge(broken, y[:, None].float()), "nan"),
                        (lambda: fit_probe(x, y, l2=-1), "l2 is -1"),
                        (lambda: fit_probe(x, torch.full((20, 2), 3.5)), "sum to 1"),
                        (lambda: class_means(x, y * 2), "left out"),
                        (lambda: share_right(x, ["a", "b"], [0, 1], 1), "2 rows of 20")):
        with pytest.raises(ValueError, match=words): call()
    learned = (x.requires_grad_() * 2)
    fit_probe(learned, y)
    fit_ridge(learned, y[:, None].float())
    assert x.grad is None


def test_a_push_is_made_once_and_on_a_single_token_too():
    push_once, x = push(torch.ones(1, 4)), torch.zeros(1, 1, 4)
    assert push_once(x).sum() == 4 and push_once(x).sum() == 0
