"""The n-gram model against a direct implementation of its formulas, and against bad input."""
import math
import pickle
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from gpt_nb.ngram import NGram, bits_per_byte, count_ngrams, kn_discounts, smooth, _number


class Direct:
    """Interpolated modified Kneser-Ney, straight from Chen & Goodman (1999), section 3."""

    def __init__(self, n, ids, vocab_size, end_id=None):
        self.n, self.vocab_size, self.end_id = n, vocab_size, end_id
        self.counts = {n: Counter(self.grams(ids, n))}
        for k in range(n - 1, 0, -1):      # N1+(. w_1..w_k): different tokens before each k-gram
            self.counts[k] = Counter(g[1:] for g in set(self.grams(ids, k + 1)))
            if k > 1:
                grams = Counter(self.grams(ids, k))
                self.counts[k].update({g: c for g, c in grams.items() if g[0] == end_id})
        self.d = {k: self.discounts(c) for k, c in self.counts.items()}
        self.followers = {k: defaultdict(dict) for k in self.counts}
        for k, c in self.counts.items():
            for g, r in c.items(): self.followers[k][g[:-1]][g[-1]] = r

    def grams(self, ids, k):
        """All k-grams; none has the end token inside."""
        grams = [tuple(ids[i:i + k]) for i in range(len(ids) - k + 1)]
        return [g for g in grams if self.end_id not in g[1:-1]]

    @staticmethod
    def discounts(counts):
        n1, n2, n3, n4 = (sum(r == i for r in counts.values()) for i in (1, 2, 3, 4))
        if n1 and n2 and n3 and n4:
            y = n1 / (n1 + 2 * n2)
            d = {1: 1 - 2 * y * n2 / n1, 2: 2 - 3 * y * n3 / n2, 3: 3 - 4 * y * n4 / n3}
            if min(d.values()) > 0: return d
        return {1: 0.5, 2: 1.0, 3: 1.5}

    def prob(self, context, token):
        context = tuple(context)[max(len(context) - self.n + 1, 0):]
        if self.end_id in context[1:]: return self.prob(context[1:], token)
        lower = self.prob(context[1:], token) if context else 1 / self.vocab_size
        k = len(context) + 1
        counts, d = self.followers[k].get(context), self.d[k]
        if not counts: return lower
        total, r = sum(counts.values()), counts.get(token, 0)
        left_over = sum(d[min(c, 3)] for c in counts.values()) / total
        return (max(r - d[min(r, 3)], 0) if r else 0) / total + left_over * lower


@given(st.lists(st.integers(0, 6), min_size=5, max_size=120), st.integers(1, 5),
       st.lists(st.integers(0, 7), min_size=1, max_size=30), st.sampled_from([None, 0, 3]))
@settings(max_examples=200, deadline=None)
def test_equals_the_formulas(ids, n, other, end_id):
    ours, direct = NGram(n).fit(ids, 8, end_id), Direct(n, ids, 8, end_id)
    expected = [math.log(direct.prob(other[:i], t)) for i, t in enumerate(other)]
    assert np.abs(ours.log_probs(other) - expected).max() < 1e-9


def markov_text(length, vocab_size=40, seed=0):
    rng = np.random.default_rng(seed)
    steps = rng.zipf(1.6, length) % vocab_size
    return (np.cumsum(steps // 2) + steps) % vocab_size


def test_equals_the_formulas_on_a_longer_text():
    ids, other = markov_text(20_000), markov_text(500, seed=1)
    some = other.tolist()
    for n in (2, 4, 7):
        direct = Direct(n, ids.tolist(), 40)
        expected = [math.log(direct.prob(some[:i], t)) for i, t in enumerate(some)]
        got = NGram(n).fit(ids, 40)
        for k, counts in direct.counts.items():
            discounts = kn_discounts(np.array(list(counts.values())))
            assert np.allclose(discounts, [0, *direct.d[k].values()])
        assert np.abs(got.log_probs(other) - expected).max() < 1e-6
        assert abs(got.cross_entropy(other) + np.mean(expected)) < 1e-6


@given(st.lists(st.integers(0, 9), min_size=4, max_size=80), st.integers(1, 4),
       st.lists(st.integers(0, 11), max_size=10), st.sampled_from([None, 0, 11]))
@settings(max_examples=100, deadline=None)
def test_next_sums_to_one_and_agrees_with_log_probs(ids, n, context, end_id):
    model = NGram(n).fit(ids, 12, end_id)
    p = model.next(context)
    assert p.shape == (12,) and abs(p.sum() - 1) < 1e-12 and p.min() > 0
    scores = [model.log_probs(context + [t])[-1] for t in range(12)]
    assert np.allclose(np.log(p), scores, atol=1e-12)


def test_samples_follow_next():
    ids = markov_text(3_000, vocab_size=6)
    model = NGram(3).fit(ids)
    text = np.array(model.sample(200_000, prompt=ids[:2], seed=3))
    for a, b in ((0, 1), (4, 5), (2, 2)):
        after = text[2:][(text[:-2] == a) & (text[1:-1] == b)]
        observed, expected = np.bincount(after, minlength=6), model.next([a, b]) * len(after)
        chi_square = ((observed - expected) ** 2 / expected).sum()
        assert len(after) > 200 and chi_square < 25  # 5 degrees: 1 in 7,000
    assert abs(model.cross_entropy(text) - sum_of_entropies(model, text)) < 0.01


def sum_of_entropies(model, text):
    """What the loss on the model's own samples must be: the mean entropy of its distributions."""
    pairs, counts = np.unique(np.stack([text[:-2], text[1:-1]]), axis=1, return_counts=True)
    entropy = [-(p * np.log(p)).sum() for p in map(model.next, pairs.T)]
    return float(counts @ entropy / counts.sum())


def test_sample_is_fixed_by_its_seed_and_keeps_the_prompt():
    model = NGram(4).fit(markov_text(2_000))
    same, other = model.sample(50, [1, 2], seed=5), model.sample(50, [1, 2], seed=6)
    assert model.sample(50, [1, 2], seed=5) == same != other
    assert model.sample(50, [1, 2])[:2] == [1, 2] and len(model.sample(50, [1, 2])) == 52
    assert model.sample(0, [3]) == [3] and model.sample(0) == []
    assert all(type(t) is int for t in model.sample(5, np.array([1, 2], dtype=np.uint16)))


def test_known_is_the_longest_context_seen():
    ids, other = markov_text(500).tolist(), markov_text(200, seed=2).tolist()
    text = "".join(f",{t}" for t in ids[:-1]) + ","   # the last token is followed by nothing
    model = NGram(5).fit(ids, 40)
    for i, known in enumerate(model.known(other)):
        pasts = {k: "," + "".join(f"{t}," for t in other[i - k:i]) for k in range(min(i, 4) + 1)}
        seen = [k for k, past in pasts.items() if past in text]
        assert known == max(seen)


def test_documents_do_not_see_each_other():
    rng = np.random.default_rng(0)
    docs = [[0, *(rng.integers(1, 6, rng.integers(1, 9)))] for _ in range(400)]
    model = NGram(5).fit(np.concatenate([*docs, [0]]), 6, end_id=0)
    alone = [model.log_probs([*doc, 0])[1:] for doc in docs[:50]]
    together = model.log_probs(np.concatenate([*docs[:50], [0]]))[1:]
    assert np.allclose(np.concatenate(alone), together, atol=1e-12)
    order = rng.permutation(400)                             # nor does their order matter
    shuffled = NGram(5).fit(np.concatenate([*(docs[i] for i in order), [0]]), 6, end_id=0)
    assert np.allclose(shuffled.log_probs(docs[0]), model.log_probs(docs[0]), atol=1e-9)
    first = Counter(d[1] for d in docs)
    assert all(abs(model.next([0])[t] - first[t] / 400) < 0.02 for t in range(1, 6))
    text = np.array(model.sample(60_000, [0], seed=1))
    starts = np.bincount(text[1:][text[:-1] == 0], minlength=6)
    assert np.allclose(starts / starts.sum(), model.next([0]), atol=0.02)


def test_both_ways_of_numbering_agree():
    codes = np.random.default_rng(0).integers(0, 2**40, 3_000) // 2**31
    for a, b in zip(_number(codes, 2**40), _number(codes, 2**62)):
        assert np.array_equal(a, b)
    numbers, first, distinct = _number(codes, 2**40)
    assert np.array_equal(distinct[numbers], codes) and np.array_equal(codes[first], distinct)


def test_large_vocabulary_and_high_order():
    ids = np.random.default_rng(1).zipf(1.3, 200_000) % 65_535
    model = NGram(6).fit(ids.astype(np.uint16), vocab_size=65_535)
    other = ids[:50].tolist() + [65_534, 0, 65_534]
    p = [model.next(other[:i])[t] for i, t in enumerate(other)]
    assert np.allclose(model.log_probs(other), np.log(p), atol=1e-9)
    assert abs(model.next(other).sum() - 1) < 1e-9
    assert all(g.codes.min() >= 0 for g in count_ngrams(ids.astype(np.int64), 6, 65_535))


def test_counts():
    unigrams, bigrams = count_ngrams(np.array([1, 0, 1, 0, 0]), 2, 2)  # b a b a a
    assert unigrams.codes.tolist() == [0, 1] and unigrams.counts.tolist() == [3, 2]
    assert unigrams.continuations.tolist() == [2, 1]   # a stands after a and b, b after a only
    assert bigrams.codes.tolist() == [0, 1, 2] and bigrams.counts.tolist() == [1, 1, 2]


def test_higher_order_helps_and_the_loss_is_a_probability():
    ids = markov_text(30_000)
    losses = [NGram(n).fit(ids[:20_000], 40).cross_entropy(ids[20_000:]) for n in (1, 2, 3)]
    assert 4 > losses[0] > losses[1] > 0
    short = NGram(2).fit([0, 1, 1, 0], 2)
    texts = [[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    total = sum(math.exp(short.log_probs(text).sum()) for text in texts)
    assert abs(total - 1) < 1e-12


def test_accepts_what_holds_tokens_and_can_be_pickled():
    import torch
    ids = markov_text(300)
    forms = ids, ids.tolist(), ids.astype(np.uint16), ids.astype(np.int32), torch.tensor(ids)
    models = [NGram(3).fit(x, 40) for x in forms]
    models.append(pickle.loads(pickle.dumps(models[0])))
    assert len({m.cross_entropy(ids) for m in models}) == 1


@pytest.mark.parametrize("n, error", [
    (0, ValueError), (-3, ValueError), (2.5, TypeError), ("3", TypeError),
    (True, TypeError), (None, TypeError)])
def test_bad_order(n, error):
    with pytest.raises(error, match="n must be"): NGram(n)


@pytest.mark.parametrize("ids, error, says", [
    ([], ValueError, "empty"), ("some text", TypeError, "encode"),
    ([0.5, 1.0], TypeError, "integers"),
    ([[0, 1], [1, 0]], ValueError, "flat"),
    ([0, -1, 2], ValueError, "-1 is negative"), ([0, 2**40, 1], ValueError, "too large"),
    ([0, 1, 99, 4], ValueError, "99 is outside the vocabulary of 10"),
    ([True, False, True], TypeError, "integers")])
def test_bad_tokens(ids, error, says):
    with pytest.raises(error, match=says): NGram(2).fit(ids, vocab_size=10)
    fitted = NGram(2).fit(range(10))
    for method in (fitted.log_probs, fitted.cross_entropy, fitted.known):
        with pytest.raises(error, match=says): method(ids)


def test_other_bad_input():
    with pytest.raises(ValueError, match="3 tokens, too short for n = 4"): NGram(4).fit([0, 1, 2])
    for call in (lambda m: m.next(), lambda m: m.sample(3), lambda m: m.cross_entropy([0])):
        with pytest.raises(ValueError, match="fit"): call(NGram(2))
    model = NGram(2).fit([0, 1, 2, 1])
    with pytest.raises(ValueError, match="outside the vocabulary"): model.next([3])
    with pytest.raises(ValueError, match="outside the vocabulary"): model.sample(2, [9, 1])
    with pytest.raises(ValueError, match="negative"): model.sample(-1)
    with pytest.raises(ValueError, match="outside the vocab"): NGram(2).fit([0, 1], 3, end_id=3)


class Bytes:
    special_tokens = {"<|end|>": 256, "<|unk|>": 257}
    def token_bytes(self, i): return bytes([i])


def test_bits_per_byte():
    text = "Mia 拿着风筝 🪁"
    ids = list(text.encode())
    model = NGram(3).fit(ids, 258)
    direct = -sum(math.log2(math.exp(lp)) for lp in model.log_probs(ids)) / len(text.encode())
    assert abs(bits_per_byte(model.cross_entropy(ids), ids, Bytes()) - direct) < 1e-9
    # the end token costs bits and stands for no byte
    assert bits_per_byte(math.log(2), [65, 66, 256], Bytes()) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="no bytes"): bits_per_byte(1.0, [256], Bytes())
    with pytest.raises(ValueError, match="unk"): bits_per_byte(1.0, [65, 257], Bytes())


def test_an_order_of_magnitude_faster_than_dictionaries():
    from time import process_time
    ids = markov_text(60_000)
    start = process_time(); NGram(5).fit(ids); fast = process_time() - start
    start = process_time(); Direct(5, ids.tolist(), 40); slow = process_time() - start
    assert slow > 3 * fast


def test_100_000_stories_do_not_teach_it_to_tell_one():
    import re
    from gpt_nb.tales import Tales
    world = Tales(lang="en", level=1)
    pieces, vocabulary = re.compile(r" ?\w+|[^\w]"), {"<|end|>": 0}
    ids = [0]
    for text in world.texts(100_000, seed=0):
        found = pieces.findall(text)
        ids += [vocabulary.setdefault(piece, len(vocabulary)) for piece in found] + [0]
    names = {i: piece for piece, i in vocabulary.items()}
    sampled = NGram(7).fit(ids, end_id=0).sample(40_000, [0])
    written = "".join(names[i] for i in sampled).split("<|end|>")[1:-1]
    checks = [world.check(text) for text in written]
    assert len(checks) > 400 and np.mean([c.words for c in checks]) > 0.99
    assert np.mean([c.sentences for c in checks]) > 0.9
    assert np.mean([c.story == 1 for c in checks]) < 0.05


@pytest.mark.parametrize("n", [2, 3, 4])
def test_equals_nltk_with_one_discount_and_no_uniform_floor(n):
    nltk_models = pytest.importorskip("nltk.lm.models")
    preprocessing = pytest.importorskip("nltk.lm.preprocessing")
    ids = np.random.default_rng(n).zipf(1.6, 600) % 7
    ids = np.concatenate([ids, ids[:n]])   # so each piece has a neighbour on its left somewhere
    words = [str(i) for i in ids]
    theirs = nltk_models.KneserNeyInterpolated(n, discount=0.75)
    theirs.fit([list(preprocessing.everygrams(words, max_len=n))], sorted(set(words)))
    ours = NGram(n).fit(ids, 7)
    ours.levels = []
    for k, (codes, counts, company, n_context) in enumerate(count_ngrams(ids, n, 7)):
        discounts = np.zeros(4) if k == 0 else np.array([0, 0.75, 0.75, 0.75])
        used = counts if company is None else company
        ours.levels.append(smooth(codes, used, n_context, 7, discounts))
    for context in {tuple(ids[i:i + n - 1]) for i in range(60)}:
        want = [theirs.score(str(w), [str(c) for c in context]) for w in range(7)]
        assert np.allclose(ours.next(list(context)), want, atol=1e-9)
