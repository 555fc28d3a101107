"""Patching, ablation and induction on tiny random models and on rows made by hand."""
import pytest
import torch
from torch.testing import assert_close

from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.circuits import (StoryPairs, all_heads, answer_lead, carriers, choice_accuracy,
                             come_back, induction, induction_of, last_choices, lost_by_kind,
                             mean_mixed, mixed_name, patch_heads, patch_map, patched, random_heads,
                             repeated_rows, story_pairs, true_stories, without_heads)
from gpt_nb.evaluation import divergence
from gpt_nb.interpret import trace
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.tales import Tales

WORLD = Tales(level=1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    shape = dict(n_layer=3, d_model=24, n_head=4, bos_token_id=59, eos_token_id=59)
    return GPT(GPTConfig("qwen3", 60, 30, **shape)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def growing():
    return GPT.from_pretrained("growing/003000", dtype=torch.float32).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tok(): return load_tokenizer("growing/003000")


def pairs_of(n=4, length=12):
    first, second = torch.randint(59, (2, n, length)).unbind()
    return StoryPairs(first, second, torch.tensor([[1, 2]] * n))


@pytest.mark.parametrize("names", [["embed"], ["layers.2.resid"], ["norm"], ["logits"]])
def test_everything_put_in_is_the_other_run(model, names):
    pairs = pairs_of()
    assert_close(patched(model, pairs.first, pairs.second, names), model(pairs.first))


def test_what_is_put_in_its_own_place_changes_nothing(model):
    ids = pairs_of().first
    names = [mixed_name(head) for head in all_heads(model)]
    for at in (None, 3, -1): assert_close(patched(model, ids, ids, names, at), model(ids))


def test_one_place_is_one_place(model):
    "What stands before it is as it was, and at it the stream is that of the other text."
    pairs = pairs_of()
    logits = patched(model, pairs.first, pairs.second, ["layers.2.resid"], 5)
    want = model(pairs.second)
    want[:, 5] = model(pairs.first)[:, 5]
    assert_close(logits, want)


def test_shares_run_from_0_to_1(model):
    pairs = pairs_of()
    back = come_back(model, pairs, [(["layers.2.resid"], None), (["layers.2.resid"], -1),
                                    (["layers.2.resid"], 4)])
    assert_close(back, torch.tensor([1.0, 1, 0]), rtol=0, atol=1e-4)
    assert patch_map(model, pairs).shape == (4, 12)
    assert list(patch_heads(model, pairs)) == all_heads(model)


def test_answer_lead():
    logits = torch.zeros(2, 3, 5)
    logits[:, -1] = torch.tensor([0.0, 4, 1, 0, 9])
    assert answer_lead(logits, torch.tensor([[1, 2], [2, 4]])).tolist() == [3, -8]


def test_pairs_differ_in_one_word_that_decides_the_answer(tok):
    pairs = story_pairs(WORLD, tok, range(30))
    assert ((pairs.first != pairs.second).sum(1) == 1).all()
    for ids, side in ((pairs.first, 0), (pairs.second, 1)):
        for row, answers in zip(ids, pairs.answers):
            name, = WORLD.next(tok.decode(row[1:].tolist()))
            assert tok.encode(" " + name) == [answers[side].item()]


def test_carriers():
    effect = {(0, 0): 0.05, (0, 1): 0.2, (1, 0): 0.6, (1, 1): -0.5}
    assert carriers(effect) == [(1, 0), (0, 1)] and carriers(effect, 0.9) == []


def test_no_head_away_changes_nothing(growing, tok):
    means, choices = mean_mixed(growing, tok, WORLD.texts(20)), last_choices(WORLD, tok, range(60))
    assert without_heads(means, []) == {}
    assert choice_accuracy(growing, choices, {}) == choice_accuracy(growing, choices) > 0.95
    rows = true_stories(WORLD, tok, range(12))
    assert lost_by_kind(growing, rows, {}) == lost_by_kind(growing, rows)


def test_heads_that_are_away_write_their_mean(growing, tok):
    means, ids = mean_mixed(growing, tok, WORLD.texts(20)), torch.randint(100, (2, 9))
    with trace(growing, ["layers.1.attn.mixed"], without_heads(means, [(1, 2)])) as acts:
        growing(ids)
    assert_close(acts["layers.1.attn.mixed"][:, 2], means[1, 2].expand(2, 9, -1))


def test_means_do_not_count_what_fills_up(growing, tok):
    short, long = sorted(WORLD.texts(2, seed=3), key=len)
    alone, both = mean_mixed(growing, tok, [short]), mean_mixed(growing, tok, [short, long])
    n, m = (1 + len(tok.encode(text)) for text in (short, long))
    want = (n * alone + m * mean_mixed(growing, tok, [long])) / (n + m)
    assert_close(both, want, rtol=0, atol=1e-5)


def test_what_is_lost_is_the_divergence(growing, tok):
    "Kinds of words share out what chapter 11 measures."
    rows, story = true_stories(WORLD, tok, [7]), WORLD.sample(7)
    lost = torch.tensor(divergence(growing, WORLD, tok, story.text)).float()
    found = lost_by_kind(growing, rows)
    for kind in ("grammar", "world"):
        assert abs(found[kind] - lost[rows.kinds[kind][0]].mean().item()) < 1e-4
    assert (rows.kinds["grammar"] ^ rows.kinds["world"]).all()


def test_random_heads(model):
    heads = random_heads(model, 3, seed=0, besides=[(0, 0)])
    assert len(set(heads)) == 3 and (0, 0) not in heads
    assert heads == random_heads(model, 3, seed=0, besides=[(0, 0)])
    with pytest.raises(ValueError, match="11 heads"): random_heads(model, 12, 0, besides=[(0, 0)])


def test_induction_by_hand(model):
    ids = repeated_rows(60, 6, 5, end_id=59)
    assert ids.shape == (5, 13) and (ids[:, 1:7] == ids[:, 7:]).all() and (ids[:, 1:] != 59).all()
    pattern = torch.zeros(5, 2, 13, 13)
    for t in range(7, 13):
        pattern[:, 0, t, t - 5] = 1   # the token after the earlier one
        pattern[:, 1, t, t - 6] = 1   # the earlier one itself
    assert induction_of(pattern, 6).tolist() == [1, 0]
    found = induction(model, ids)
    assert found.scores.shape == (3, 4) and found.scores.max() < 0.3 and abs(found.gained) < 0.5


def test_bad_input(model, growing, tok):
    pairs = pairs_of()
    with pytest.raises(ValueError, match="same length"):
        patched(model, pairs.first, pairs.second[:, 1:], ["embed"])
    with pytest.raises(ValueError, match="places 0 to 11"):
        patched(model, pairs.first, pairs.second, ["embed"], 12)
    with pytest.raises(ValueError, match="asks for layer 3"):
        come_back(model, pairs, [(["layers.3.resid"], None)])
    with pytest.raises(ValueError, match="heads 0 to 5"):
        without_heads(mean_mixed(growing, tok, WORLD.texts(2)), [(1, 6)])
    with pytest.raises(ValueError, match=r"Tales\(level=1\)"): story_pairs(Tales(level=2), tok, [0])
    with pytest.raises(ValueError, match="at least one"): story_pairs(WORLD, tok, [])
    with pytest.raises(ValueError, match="token for each word"):
        true_stories(WORLD, load_tokenizer("pydocs"), [0])


def test_names_from_a_generator_are_all_put_in():
    model, tok = GPT.from_pretrained("growing/003000"), load_tokenizer("growing/003000")
    pairs = story_pairs(Tales(level=1), tok, range(2))
    lazy = patched(model, pairs.first, pairs.second, (n for n in ["layers.1.resid"]))
    assert torch.equal(lazy, patched(model, pairs.first, pairs.second, ["layers.1.resid"]))
    drawn = random_heads(model, 10, 0, besides=(head for head in [(0, 0), (1, 1)]))
    assert not {(0, 0), (1, 1)} & set(drawn)


def test_models_as_they_are_stored():
    model, tok = GPT.from_pretrained("growing/003000"), load_tokenizer("growing/003000")
    assert patch_map(model, story_pairs(Tales(level=1), tok, range(2))).shape[0] == 3


def test_what_cannot_be_measured_is_refused():
    model, tok = GPT.from_pretrained("growing/003000"), load_tokenizer("growing/003000")
    pairs = story_pairs(Tales(level=1), tok, range(2))
    for call, words in ((lambda: come_back(model, pairs, []), "at least one"),
                        (lambda: come_back(model, pairs, [(["embed"], 999)]), "at is 999"),
                        (lambda: come_back(model, pairs._replace(second=pairs.first),
                                           [(["embed"], 0)]), "nothing can come back"),
                        (lambda: induction(model, pairs.first), "not written twice"),
                        (lambda: repeated_rows(50, 5, 2, 99), "end_id 99"),
                        (lambda: last_choices(Tales(level=1), tok, []), "give more"),
                        (lambda: mean_mixed(model, tok, []), "give more"),
                        (lambda: random_heads(model, -1, 0), "k is -1")):
        with pytest.raises(ValueError, match=words): call()
    with pytest.raises(TypeError, match="one text"): mean_mixed(model, tok, "Once")
