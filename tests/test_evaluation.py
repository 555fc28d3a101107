"Figures that must be exact: loss, bits per byte, the floor, the truth."
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_nb.data import tokenize
from gpt_nb.evaluation import (
    Calibration, OneAttention, Rival, Truth, compare, divergence, embed, evaluate, floor,
    lines_to_cross, score, text_bytes, text_rows, trained_rungs, true_next, true_rows)
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.ngram import NGram
from gpt_nb.tales import Tales
from gpt_nb.tokenizer import BPETokenizer, CharTokenizer, WordTokenizer
from gpt_nb.training import TrainConfig, train


def plain_loss(model, ids, context, end_id=None):
    "A double loop over windows, or over whole documents, and positions."
    nats, start = [], 0
    with torch.no_grad():
        for i in range(1, len(ids)):
            log_probs = model(torch.tensor([ids[start:i].tolist()]))[0, -1].log_softmax(-1)
            nats.append(-log_probs[int(ids[i])].item())
            full = i - start == context if end_id is None else ids[i] == end_id
            if full: start = i
    return sum(nats)


def test_evaluate_equals_a_double_loop_over_documents(small):
    tok, tokens, model = small
    ids = np.asarray(tokens.val)[:400]
    ids = ids[:np.flatnonzero(ids == tok.end_id)[-1] + 1]
    result = evaluate(model, ids, tok)
    nats = plain_loss(model, ids, 300, tok.end_id)
    assert result.tokens == len(ids) - 1
    assert result.loss == pytest.approx(nats / (len(ids) - 1), rel=1e-5)
    text = tok.decode(ids.tolist()).replace("<|end|>", "")
    assert result.bits_per_byte == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.loss))


def test_evaluate_equals_a_double_loop_over_windows():
    torch.manual_seed(0)
    model = GPT(GPTConfig("gpt2", 20, 16, 1, 2, 32)).eval()
    ids = np.random.default_rng(0).integers(0, 20, 75)
    result = evaluate(model, ids)
    assert result.loss == pytest.approx(plain_loss(model, ids, 16) / 74, rel=1e-5)
    assert result.bits_per_byte is None
    assert result.tokens == 74


def test_calibration_is_the_definition(small):
    tok, tokens, model = small
    ids = np.asarray(tokens.val)[:300]
    ids = ids[:np.flatnonzero(ids == tok.end_id)[-1] + 1]
    said, right, start = [], [], 0
    with torch.no_grad():
        for i in range(1, len(ids)):
            p, first = model(torch.tensor([ids[start:i].tolist()]))[0, -1].softmax(-1).max(-1)
            said.append(p.item())
            right.append(first.item() == ids[i])
            if ids[i] == tok.end_id: start = i
    said, right, error = np.array(said), np.array(right, float), 0
    for b in range(10):
        below = said < (b + 1) / 10 if b < 9 else True   # the last bin holds 1 too
        at = np.flatnonzero((said >= b / 10) & below)
        if len(at): error += len(at) / len(said) * abs(said[at].mean() - right[at].mean())
    result = evaluate(model, ids, tok)
    assert result.calibration.error == pytest.approx(error, abs=1e-6) and result.context == 300


def trained(kind, texts):
    "A tokenizer of one kind, trained on these texts."
    if kind == "word": return WordTokenizer.train(texts, 2000)
    if kind == "char": return CharTokenizer.train(texts)
    return BPETokenizer.train(texts, vocab_size=400)


@pytest.mark.parametrize("lang, level, kind", [
    ("en", 1, "word"),
    ("en", 2, "word"),
    ("en", 1, "char"),
    ("en", 2, "bpe"),
    ("zh", 1, "char"),
    ("zh", 2, "word")])
def test_the_truth_is_calibrated_and_reaches_the_floor_of_its_stories(lang, level, kind):
    world = Tales(lang, level)
    texts = world.texts(300)
    tok = trained(kind, texts)
    stories = [[*tok.encode(text), tok.end_id] for text in texts[:12]]
    ids = np.array([tok.end_id, *sum(stories, [])])
    truth = Truth(world, tok, 1000)
    result = evaluate(truth, ids, tok, world=world)
    nats = -sum(map(world.log2prob, texts[:12])) * math.log(2)
    assert result.loss * (len(ids) - 1) == pytest.approx(nats, rel=1e-5)
    assert result.calibration.error < 1e-6
    assert divergence(truth, world, tok, texts[0]) == pytest.approx(0, abs=1e-6)
    for chances in true_next(world, tok, tok.encode(texts[0])):
        assert sum(chances.values()) == pytest.approx(1)


def test_divergence_is_the_gap_between_the_losses(small):
    "Averaged over what the truth may say next, the model loses the divergence more than the truth."
    tok, _, model = small
    world = Tales()
    text = world.sample(5).text
    q = model(torch.tensor([[tok.end_id, *tok.encode(text)]]))[0].log_softmax(-1)
    direct = []
    for log_q, chances in zip(q.tolist(), true_next(world, tok, tok.encode(text)), strict=True):
        direct.append(sum(p * (math.log(p) - log_q[token]) for token, p in chances.items()))
    assert divergence(model, world, tok, text) == pytest.approx(direct, abs=1e-4)


def test_calibration_bins_hold_the_ends():
    bins = Calibration()
    bins.add([0.0, 1.0, 0.999999, 0.1], [0, 1, 1, 0])
    assert bins.sums[0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert bins.error == pytest.approx(0.1 / 4, abs=1e-5)


def test_another_world_is_told_apart(small):
    tok, tokens, model = small
    world, chinese = Tales(), Tales("zh")
    with pytest.raises(ValueError, match="stories of this world"):
        true_next(world, tok, tok.encode("Once a dog"))
    pieces = BPETokenizer.train(chinese.texts(100), vocab_size=600)
    with pytest.raises(ValueError, match="does not join its words"):
        true_next(chinese, pieces, pieces.encode(chinese.sample(0).text))
    ids = [tok.end_id, *tok.encode(world.sample(0).text), tok.end_id]
    with pytest.raises(ValueError, match="give its tokenizer"):
        evaluate(model, ids[:-1], world=world)
    with pytest.raises(ValueError, match="stories of this world"):
        evaluate(model, ids, tok, world=chinese)
    with pytest.raises(ValueError, match="from their beginning"):
        evaluate(model, ids[1:], tok, world=world)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 70))
def test_batches_change_nothing(small, rows):
    tok, tokens, model = small
    loss = evaluate(model, tokens, tok).loss
    assert evaluate(model, tokens, tok, batch_size=rows).loss == pytest.approx(loss, rel=1e-6)


def test_bytes_are_counted_not_decoded(small):
    tok, tokens, _ = small
    ids = tokens.val.tolist()
    text = tok.decode(ids)
    assert text_bytes(ids, tok).replace(b"\0", b"") == text.replace("<|end|>", "").encode()
    first_story = text_bytes(tokens.val, tok).strip(b"\0").split(b"\0")[0]
    assert first_story.decode() == text.split("<|end|>")[1]


def test_floor_is_the_loss_of_the_truth():
    world = Tales()
    tok = WordTokenizer.train(world.texts(500), 1000)
    ids = np.asarray(tokenize(world.texts(3000, seed=5), tok, val=0, progress=False).train)
    texts = world.texts(3000, seed=5)
    direct = -sum(map(world.log2prob, texts)) * math.log(2) / (len(ids) - 1)
    assert floor(world, ids, tok.end_id) == pytest.approx(direct, rel=0.01)


def test_lines_to_cross_are_what_they_say(small):
    tok, tokens, _ = small
    lines = lines_to_cross(tokens, tok, orders=(3,))
    assert len(lines) == 2 and all(0 < bits < 8 for bits in lines.values())


def test_bad_input(small):
    tok, tokens, model = small
    other = CharTokenizer.train(["abc"])
    with pytest.raises(ValueError, match="vocabulary"):
        evaluate(GPT(GPTConfig("gpt2", 20, 300, 1, 2, 32)), tokens)
    with pytest.raises(ValueError, match="at least two"): evaluate(model, np.array([1]), tok)
    with pytest.raises(ValueError, match="vocabulary"):
        evaluate(GPT(GPTConfig("gpt2", 2, 300, 1, 2, 32)), np.array([0, 1, 1]), other)


def test_networks_of_the_ladder_see_what_they_say():
    """A token changes the logits of its own place and of those after it as far as the network
    looks, and of none before."""
    from gpt_nb.evaluation import rungs
    torch.manual_seed(0)
    ids = torch.randint(0, 20, (1, 16))
    other = ids.clone()
    other[0, 4] = (ids[0, 4] + 1) % 20
    reach = {"bigram network": 1, "MLP over 8 tokens": 8}
    for name, (make, _) in rungs(20, 16, 19, d_model=32).items():
        model = make()
        with torch.no_grad():
            for p in model.parameters(): p.add_(0.1 * torch.randn_like(p))
            changed = (model(ids) != model(other)).any(-1)[0].nonzero()[:, 0].tolist()
        assert changed == list(range(4, min(16, 4 + reach.get(name, 16)))), name


def test_counted_rungs_agree_with_a_sum_over_bytes(small):
    from gpt_nb.evaluation import counted_rungs
    tok, tokens, _ = small
    rungs = {r.name: r for r in counted_rungs(tokens, tok, orders=(1, 3))}
    gram = NGram(3).fit(tokens.train, tok.vocab_size, end_id=tok.end_id)
    text = text_bytes(tokens.val, tok).replace(b"\0", b"")
    direct = -sum(math.log2(p) for p in np.exp(gram.log_probs(tokens.val)[1:])) / len(text)
    assert rungs["Kneser-Ney 3"].bits_per_byte == pytest.approx(direct, rel=1e-9)
    assert list(rungs) == ["uniform", "unigram", "Kneser-Ney 3", "gzip", "xz, primed"]
    uniform = math.log2(tok.vocab_size) * (len(tokens.val) - 1) / len(text)
    assert rungs["uniform"].bits_per_byte == pytest.approx(uniform)


def test_tokens_of_another_tokenizer_are_refused(small):
    tok, tokens, model = small
    other = WordTokenizer.train(Tales().texts(20), 400)
    made_them = "tokenizer that made them"
    with pytest.raises(ValueError, match=made_them): evaluate(model, tokens, other)
    with pytest.raises(ValueError, match=made_them): lines_to_cross(tokens, other)
    with pytest.raises(ValueError, match=made_them): trained_rungs(tokens, other, None, 10)
    with pytest.raises(ValueError, match="unk"): text_bytes(np.array([other.unk_id]), other)
    with pytest.raises(ValueError, match="no network"):
        trained_rungs(tokens, tok, None, 10, only=["GPT2 blocks"])


def test_every_end_token_begins_a_story():
    world = Tales()
    tok, texts = WordTokenizer.train(world.texts(500), 1000), world.texts(2, seed=7)
    first, second = ([tok.end_id, *tok.encode(text)] for text in texts)
    both = torch.tensor([[*first, *second, tok.end_id, tok.end_id]])
    rows = true_rows(world, tok, both, tok.vocab_size)[0]
    assert rows.sum(-1) == pytest.approx(1, abs=1e-5)
    alone = true_rows(world, tok, torch.tensor([second]), tok.vocab_size)[0]
    assert (rows[len(first):len(first) + len(second)] == alone).all()
    with pytest.raises(ValueError, match="smaller than the tokenizer"):
        true_rows(world, tok, torch.tensor([first]), 10)
    with pytest.raises(ValueError, match="shape"):
        true_rows(world, tok, torch.tensor(first), tok.vocab_size)
    for ids in ([], [tok.end_id], first, [5, 6, 7]):
        with pytest.raises(ValueError, match="whole stories"):
            floor(world, np.array(ids, int), tok.end_id)


def test_a_broken_model_is_named(small):
    tok, tokens, _ = small
    broken = GPT(GPTConfig("qwen3", tok.vocab_size, 300, 1, 2, 32)).train()
    with torch.no_grad(): broken.lm_head.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="not numbers"): evaluate(broken, tokens, tok)
    assert broken.training
    with torch.no_grad(): broken.lm_head.weight.normal_(0, 1e4)
    assert evaluate(broken, tokens, tok).perplexity > 1e300


def test_odd_sizes_are_named(small):
    tok, tokens, model = small
    with pytest.raises(ValueError, match="batch_size"): evaluate(model, tokens, tok, batch_size=0)
    with pytest.raises(ValueError, match="0 to 1"): Calibration().add([1.2], [1])
    with pytest.raises(ValueError, match="one for each"): Calibration().add([0.2, 0.3], [1])


def test_any_network_stands_on_the_ladder(small):
    "A Rival gives its network's logits, has its weights, is trained and evaluated like a GPT."
    tok, tokens, _ = small
    torch.manual_seed(0)
    ends = dict(bos_token_id=tok.end_id, eos_token_id=tok.end_id)
    config = GPTConfig("gpt2", tok.vocab_size, 300, 1, 2, 32, **ends)
    net = OneAttention(tok.vocab_size, 300, 32, 2)
    rival, ids = Rival(config, net), torch.randint(0, tok.vocab_size, (2, 9))
    assert (rival(ids) == net(ids)).all()
    assert rival.n_params == sum(p.numel() for p in net.parameters())
    before = evaluate(rival, tokens, tok)
    ten_steps = TrainConfig(steps=10, batch_size=4, optimizer="adamw", lr=0.01)
    after = train(rival, tokens, ten_steps, tok, show=False)
    assert after.val_loss < before.loss - 0.3
    assert evaluate(rival, tokens, tok).loss == pytest.approx(after.val_loss, rel=1e-3)


def test_a_token_has_the_chance_of_the_words_that_begin_with_it():
    world = Tales()
    letters = CharTokenizer.train(world.texts(200))
    text = "Once a lonely king named Leo lived in the forest. His friend was a"
    words, chances = world.next(text), true_next(world, letters, letters.encode(text + " "))[-1]
    for i, p in chances.items():
        letter = letters.decode([i])
        assert p == pytest.approx(sum(q for word, q in words.items() if word[0] == letter))


# ---- single texts

def one_by_one(model, tok, text, context):
    "Nats of a text and its end, straight from the definition: token by token, in windows."
    ids, nats = [tok.end_id, *tok.encode(text), tok.end_id], []
    with torch.no_grad():
        for i in range(1, len(ids)):
            start = (i - 1) // context * context
            log_p = model(torch.tensor([ids[start:i]]))[0, -1].log_softmax(-1)
            nats.append(-log_p[ids[i]].item())
    return nats


@settings(max_examples=15, deadline=None)
@given(texts=st.lists(st.text("ab 今🙂.", max_size=12), max_size=7), rows=st.integers(1, 9),
       context=st.integers(1, 20))
def test_score_is_the_definition(small, texts, rows, context):
    "Empty texts, equal ones, texts longer than the context; in batches of any size."
    tok, _, _ = small
    torch.manual_seed(context)
    model = GPT(GPTConfig("qwen3", tok.vocab_size, context, 1, 2, 32)).train()
    found = score(model, tok, iter(texts), batch_size=rows)
    assert model.training and len(found) == len(texts)
    for text, got in zip(texts, found):
        nats = one_by_one(model, tok, text, context)
        assert got.bits == pytest.approx(sum(nats) / math.log(2), rel=1e-5)
        assert got.perplexity == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-5)
        if text: assert got.bits_per_byte == pytest.approx(got.bits / len(text.encode()))
        else: assert got.bits_per_byte is None


@pytest.mark.parametrize("lang, level, kind", [
    ("en", 1, "word"), ("en", 2, "char"), ("zh", 1, "char"), ("zh", 2, "word"), ("en", 3, "bpe")])
def test_the_truth_scores_a_story_as_the_world_does(lang, level, kind):
    world = Tales(lang, level)
    texts = world.texts(300)
    tok = trained(kind, texts)
    found = score(Truth(world, tok, 1000), tok, texts[:12], batch_size=5)
    assert [s.bits for s in found] == pytest.approx([-world.log2prob(t) for t in texts[:12]])


def test_scores_add_up_to_the_evaluation(small):
    tok, tokens, model = small
    texts = tok.decode(tokens.val.tolist()).split("<|end|>")[1:-1]
    bits = sum(s.bits for s in score(model, tok, texts))
    whole = evaluate(model, tokens, tok)
    assert bits == pytest.approx(whole.loss * whole.tokens / math.log(2), rel=1e-5)
    size = sum(len(text.encode()) for text in texts)
    assert bits / size == pytest.approx(whole.bits_per_byte, rel=1e-5)


def test_unknown_words_hide_bytes():
    tok = WordTokenizer.train(["a b c"], 100)
    model = GPT(GPTConfig.from_depth(1, tok.vocab_size, 10))
    known, unknown = score(model, tok, ["a b", "a zebra"])
    assert known.bits_per_byte == pytest.approx(known.bits / 3)
    assert unknown.bits_per_byte is None and unknown.bits > 0


@settings(max_examples=15, deadline=None)
@given(texts=st.lists(st.text("ab 今🙂.", max_size=12), max_size=6), rows=st.integers(1, 7),
       context=st.integers(1, 20), layer=st.integers(-3, 2))
def test_embed_is_the_mean_over_a_texts_own_tokens(small, texts, rows, context, layer):
    tok, _, _ = small
    torch.manual_seed(context)
    model = GPT(GPTConfig("gpt2", tok.vocab_size, context, 2, 2, 32))
    found = embed(model, tok, iter(texts), layer, rows)
    assert found.shape == (len(texts), 32) and not found.requires_grad
    for text, got in zip(texts, found):
        ids, kept = [tok.end_id, *tok.encode(text)], []
        for a in range(0, len(ids), context):
            part = torch.tensor([ids[a:a + context]])
            states = [model.model.embed_tokens(part)]
            states[0] = states[0] + model.model.embed_positions.weight[:part.shape[1]]
            for block in model.model.layers: states.append(block(states[-1]))
            states[-1] = model.model.norm(states[-1])
            kept += states[layer][0]
        want = torch.stack(kept[1:]).mean(0) if len(ids) > 1 else torch.zeros(32)
        assert torch.allclose(got, want, atol=1e-5)


def test_one_text_or_a_wrong_size_is_refused(small):
    tok, _, model = small
    other = GPT(GPTConfig("gpt2", 20, 300, 1, 2, 32))
    for of in (score, embed):
        with pytest.raises(TypeError, match=r"\[text\]"): of(model, tok, "Once")
        with pytest.raises(ValueError, match="vocabulary of 320.*20"): of(other, tok, ["Once"])
        with pytest.raises(ValueError, match="batch_size"): of(model, tok, ["Once"], batch_size=0)
        assert len(of(model, tok, [])) == 0
    for layer in (2, -3):
        with pytest.raises(ValueError, match="0, the embeddings, to 1"):
            embed(model, tok, ["Once"], layer)
    with torch.no_grad():
        broken = GPT(model.config)
        broken.lm_head.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="not numbers"): score(broken, tok, ["Once"])


def test_a_text_opens_as_the_config_says(small):
    "The token that begins a text in a checkpoint of others opens it; it is no part of the text."
    tok, _, _ = small
    torch.manual_seed(0)
    model = GPT(GPTConfig("gpt2", tok.vocab_size, 300, 1, 2, 32, bos_token_id=3))
    text, end = "Once a boy", tok.end_id
    ids = torch.tensor([[3, *tok.encode(text), end]])
    with torch.no_grad():
        log_p = model(ids[:, :-1])[0].log_softmax(-1)
        states = model.model(ids[:, :-1])[0]
    nats = -log_p.gather(1, ids[0, 1:, None]).sum().item()
    longer = [text, text + " named Tom"]
    assert score(model, tok, longer)[0].bits == pytest.approx(nats / math.log(2), rel=1e-5)
    assert torch.allclose(embed(model, tok, longer)[0], states[1:].mean(0), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(0, 30), max_size=20), batch_size=st.integers(1, 9),
       most=st.integers(1, 100))
def test_few_long_rows_are_read_at_once(small, lengths, batch_size, most):
    "Where logits would take much memory; each row is read once, an own token for each place."
    tok, _, _ = small
    rows, read = [[9] * n for n in lengths], []
    for which, x, y in text_rows(tok, 3, rows, 40, batch_size, most):
        assert len(which) <= batch_size and (len(which) == 1 or x.numel() <= most)
        for i, row, after in zip(which, x.tolist(), y.tolist()):
            n = lengths[i]
            assert row[:n + 1] == [3, *rows[i]] and set(row[n + 1:]) <= {tok.end_id}
            assert after[:n + 1] == [*rows[i], tok.end_id] and set(after[n + 1:]) <= {-100}
        read += which
    assert sorted(read) == list(range(len(rows)))


def test_scores_fill_a_gigabyte_at_most(small, monkeypatch):
    tok, _, model = small
    asked = []
    def watched(*args):
        asked.append(args[-1])
        return text_rows(*args)
    monkeypatch.setattr("gpt_nb.evaluation.text_rows", watched)
    score(model, tok, ["Once"])
    assert asked == [2**30 / 4 / model.config.vocab_size]


def test_what_is_no_gpt_is_told_apart(small):
    tok, tokens, model = small
    truth = Truth(Tales(), tok, 300)
    with pytest.raises(TypeError, match="a Truth: give a GPT"): embed(truth, tok, ["Once"])
    with pytest.raises(TypeError, match="no GPT that others"): truth.save_pretrained("nowhere")
    for of in (score, embed):
        with pytest.raises(TypeError, match="a GPT and a NoneType"): of(model, None, ["Once"])
        with pytest.raises(TypeError, match="and then its tokenizer"): of(tok, model, ["Once"])
        for bad in (1.5, "3", None):
            with pytest.raises(TypeError, match="batch_size is"):
                of(model, tok, ["Once"], batch_size=bad)
    for bad in (1.0, None, "last"):
        with pytest.raises(TypeError, match="layer is .*whole"): embed(model, tok, ["Once"], bad)
    for bad in (["Once a boy"], "Once"):
        with pytest.raises(TypeError, match="`score` takes texts"): evaluate(model, bad, tok)
    for bad in (1.5, math.nan, "5"):
        with pytest.raises(TypeError, match="limit is"): evaluate(model, tokens, tok, limit=bad)
    for bad in ([model], ["runs/a"]):
        with pytest.raises(TypeError, match="no Run: give"): compare(bad, tokens)
    broken = GPT(model.config)
    with torch.no_grad(): broken.model.norm.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="not numbers"): embed(broken, tok, ["Once"])


def test_ids_alone_end_where_the_config_says():
    "With several end tokens the first of them ends a document."
    torch.manual_seed(0)
    ids = np.array([2, 5, 6, 2, 7, 8, 9, 2])
    losses = []
    for ends in (2, (2, 4)):
        model = GPT(GPTConfig("gpt2", 20, 16, 1, 2, 32, eos_token_id=ends)).eval()
        with torch.no_grad():
            for p in model.parameters(): p.copy_(torch.linspace(-1, 1, p.numel()).view_as(p))
        losses.append(evaluate(model, ids).loss)
        assert losses[-1] == pytest.approx(plain_loss(model, ids, 16, 2) / 7, rel=1e-5)
    assert losses[0] == losses[1]


# ---- a part of a text, and several runs

def test_a_limit_reads_rows_from_all_over_the_text(capsys):
    ids = np.arange(20_001) // 100          # a text whose ids tell the place
    model = GPT(GPTConfig("gpt2", 201, 10, 1, 2, 32)).eval()
    read = []
    model.register_forward_pre_hook(lambda model, given: read.extend(given[0][:, 0].tolist()))
    part = evaluate(model, ids, limit=1000, progress=True)
    assert 900 <= part.tokens <= 1000 + 320
    gaps = np.diff(sorted(read))
    assert max(gaps) <= 4 and min(read) == 0 and max(read) >= 196
    assert "read" in capsys.readouterr().err
    assert evaluate(model, ids, limit=10**9)[:3] == evaluate(model, ids)[:3]
    assert capsys.readouterr().err == ""
    assert evaluate(model, ids, limit=1).tokens == 10
    with pytest.raises(ValueError, match="limit is 0"): evaluate(model, ids, limit=0)


def test_a_limited_evaluation_counts_the_bytes_it_read(small):
    tok, tokens, model = small
    some = evaluate(model, tokens, tok, batch_size=2, limit=len(tokens.val) // 3)
    assert some.tokens < len(tokens.val) / 2
    assert some.bits_per_byte == pytest.approx(evaluate(model, tokens, tok).bits_per_byte, rel=0.2)
    same = evaluate(model, tokens, tok, batch_size=7, limit=len(tokens.val) // 3)
    assert same.loss == pytest.approx(some.loss, rel=1e-6) and same.tokens == some.tokens


def test_compare_shows_what_differs(small, tmp_path):
    tok, tokens, _ = small
    runs, how = [], dict(batch_size=4, eval_every=1000, device="cpu")
    for depth, lr in ((1, 0.01), (1, 0.02), (2, 0.01)):
        torch.manual_seed(0)
        model = GPT(GPTConfig("qwen3", tok.vocab_size, 300, depth, 2, 32))
        config, out = TrainConfig(steps=2, lr=lr, **how), tmp_path / f"{depth}-{lr}"
        runs.append(train(model, tokens, config, tok, out=out, show=False))
    rows = compare(runs, tokens)
    assert [list(row) for row in rows] == 3 * [
        ["name", "n_layer", "lr", "tokens", "seconds", "loss", "bits_per_byte"]]
    assert [row["name"] for row in rows] == ["1-0.01", "1-0.02", "2-0.01"]
    for row, run in zip(rows, runs):
        found = evaluate(run, tokens)
        assert (row["loss"], row["bits_per_byte"]) == (found.loss, found.bits_per_byte)
        assert row["tokens"] == run.history[-1]["tokens"] > 0 and row["seconds"] == run.seconds
    assert list(compare(runs[:1], tokens)[0]) == [
        "name", "tokens", "seconds", "loss", "bits_per_byte"]
    with pytest.raises(ValueError, match="at least one"): compare([], tokens)


def test_compare_runs_with_tokenizers_of_their_own(small):
    tok, tokens, _ = small
    texts = tok.decode(tokens.train.tolist()).split("<|end|>")[1:-1]
    letters = CharTokenizer.train(texts)
    theirs, runs = tokenize(texts, letters, progress=False), []
    for t, text in ((tok, tokens), (letters, theirs)):
        model = GPT(GPTConfig("qwen3", t.vocab_size, 300, 1, 2, 32))
        config = TrainConfig(steps=1, batch_size=2, device="cpu")
        runs.append(train(model, text, config, t, show=False))
    rows = compare(runs, [tokens, theirs])
    assert [row["name"] for row in rows] == ["run 1", "run 2"]
    assert [row["vocab_size"] for row in rows] == [tok.vocab_size, letters.vocab_size]
    with pytest.raises(ValueError, match="give the tokenizer that made them"): compare(runs, tokens)
    with pytest.raises(ValueError, match="1 texts for 2 runs"): compare(runs, [tokens])
