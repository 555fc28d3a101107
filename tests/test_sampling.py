"""Sampling against `transformers` (filters, greedy, beams), against itself (batches, seeds, stops),
and against the exact distribution."""
import copy
import itertools
import math
import os
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st

from gpt_nb import sampling
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.sampling import (Sampler, StopFilter, beam_search, draw, generate, keep_min_p,
                             keep_top_k, keep_top_p, pack, penalize, speculative, stream)
from gpt_nb.tokenizer import BPETokenizer
from gpt_nb.training import TrainConfig

torch.set_num_threads(1)


def tiny(arch="qwen3", vocab_size=61, context=256, seed=0, scale=12.0):
    "A random model whose distributions are far from flat."
    torch.manual_seed(seed)
    sizes = dict(vocab_size=vocab_size, context=context, n_layer=2, n_head=2, d_model=32)
    model = GPT(GPTConfig(arch=arch, **sizes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1: p.mul_(scale if p.shape[0] != vocab_size else 3.0)
    return model


class Bytes:
    "A tokenizer whose tokens are bytes; 256 ends a text."
    end_id, vocab_size = 256, 257
    def encode(self, text, allowed_special=()): return list(text.encode())
    def token_bytes(self, i): return bytes([i]) if i < 256 else b"<|end|>"
    def shown_bytes(self, i): return self.token_bytes(i) if i <= 256 else b""
    def decode(self, ids): return b"".join(map(self.token_bytes, ids)).decode(errors="replace")


class Script(torch.nn.Module):
    "A model that says one text, whatever it is asked."
    def __init__(self, text, vocab_size=257, context=1000):
        super().__init__()
        self.weight, self.text, self.calls = torch.nn.Parameter(torch.zeros(1)), list(text), 0
        self.config = SimpleNamespace(vocab_size=vocab_size, context=context)
    def new_cache(self, batch_size, max_length=None): return None
    def forward(self, ids, cache=None, pad=None):
        logits = torch.zeros(*ids.shape, self.config.vocab_size)
        logits[:, -1, self.text[self.calls % len(self.text)]] = 100.0
        self.calls += 1
        return logits


# ---- the filters against transformers

logits_cases = st.tuples(st.integers(1, 5), st.integers(2, 400), st.integers(0, 10**6),
                         st.sampled_from([0.1, 1.0, 4.0]))

def random_logits(case):
    B, V, seed, scale = case
    return torch.randn(B, V, generator=torch.Generator().manual_seed(seed)) * scale

def same_but_ties(ours, theirs, edge):
    "Equal, where `edge` marks the tokens within rounding of the threshold."
    assert torch.equal(ours.masked_fill(edge, 0), theirs.masked_fill(edge, 0))

@settings(max_examples=60, deadline=None)
@given(logits_cases, st.integers(1, 500))
def test_top_k_is_that_of_transformers(case, k):
    from transformers import TopKLogitsWarper
    x = random_logits(case)
    assert torch.equal(keep_top_k(x, k), TopKLogitsWarper(k)(None, x.clone()))

@settings(max_examples=60, deadline=None)
@given(logits_cases, st.floats(0.01, 0.999))
def test_top_p_is_that_of_transformers(case, p):
    from transformers import TopPLogitsWarper
    x = random_logits(case)
    ordered, order = x.double().softmax(-1).sort(descending=True)
    before = ordered.cumsum(-1) - ordered
    edge = torch.zeros_like(x, dtype=torch.bool).scatter(-1, order, (before - p).abs() < 1e-5)
    same_but_ties(keep_top_p(x, p), TopPLogitsWarper(p)(None, x.clone()), edge)
    kept = keep_top_p(x, p).isfinite()
    assert (x.softmax(-1) * kept).sum(-1).min() > p - 1e-5

@settings(max_examples=60, deadline=None)
@given(logits_cases, st.floats(0.0, 1.0))
def test_min_p_is_that_of_transformers(case, p):
    from transformers import MinPLogitsWarper
    x = random_logits(case)
    assert torch.equal(keep_min_p(x, p), MinPLogitsWarper(p)(None, x.clone()))

@settings(max_examples=60, deadline=None)
@given(logits_cases, st.floats(0.1, 5.0), st.integers(1, 20))
def test_penalty_is_that_of_transformers(case, penalty, n):
    from transformers import RepetitionPenaltyLogitsProcessor
    x = random_logits(case)
    ids = torch.randint(x.shape[1], (x.shape[0], n), generator=torch.Generator().manual_seed(n))
    used = torch.zeros_like(x, dtype=torch.bool).scatter(1, ids, True)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, x.clone())
    assert torch.equal(penalize(x, used, penalty), theirs)

@settings(max_examples=40, deadline=None)
@given(logits_cases, st.floats(0.2, 3.0), st.integers(1, 50), st.floats(0.0, 0.5))
def test_all_in_the_order_of_transformers(case, t, k, p):
    from transformers import (LogitsProcessorList, MinPLogitsWarper,
                              RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper,
                              TopKLogitsWarper)
    x = random_logits(case)
    ids = torch.randint(x.shape[1], (x.shape[0], 3), generator=torch.Generator().manual_seed(k))
    used = torch.zeros_like(x, dtype=torch.bool).scatter(1, ids, True)
    theirs = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.3), TemperatureLogitsWarper(t),
                                  TopKLogitsWarper(k), MinPLogitsWarper(p)])
    ours = Sampler(t, top_k=k, min_p=p, repetition_penalty=1.3).probabilities(x, used)
    assert torch.allclose(ours, theirs(ids, x.clone()).softmax(-1), atol=1e-6)

def test_order_of_the_filters_in_generate():
    "The order that transformers' generate puts them in."
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
    their = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8,
                                         num_hidden_layers=1, num_attention_heads=1))
    config = GenerationConfig(do_sample=True, temperature=0.5, top_k=3, top_p=0.5, min_p=0.1,
                              repetition_penalty=2.0)
    their._prepare_special_tokens(config)
    theirs = their._get_logits_processor(config, input_ids_seq_length=1, device="cpu")
    names = [type(p).__name__ for p in theirs]
    wanted = ["RepetitionPenaltyLogitsProcessor", "TemperatureLogitsWarper", "TopKLogitsWarper",
              "TopPLogitsWarper", "MinPLogitsWarper"]
    assert [n for n in names if n in wanted] == wanted

def test_limits_of_the_filters():
    x = torch.randn(3, 50_000) * 3
    assert torch.equal(keep_top_p(x, 1.0), x) and torch.equal(keep_min_p(x, 0.0), x)
    assert torch.equal(keep_top_k(x, 10**9), x)
    for one in (keep_top_p(x, 1e-9), keep_top_k(x, 1), keep_min_p(x, 1.0)):
        assert one.isfinite().sum(-1).tolist() == [1, 1, 1]
        assert torch.equal(one.argmax(-1), x.argmax(-1))

def test_extreme_settings():
    x = torch.tensor([[3.0, 9.0, -2.0, 0.0], [-5.0, -torch.inf, -4.0, -9.0]])
    used = torch.ones_like(x, dtype=torch.bool)
    for how in (dict(temperature=1e-40), dict(temperature=1e-300), dict(top_p=1e-50),
                dict(top_p=1e-320)):
        assert Sampler(**how).probabilities(x).tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]], how
    for how in (dict(temperature=1e300), dict(repetition_penalty=1e-30),
                dict(repetition_penalty=1e30, temperature=1e-300)):
        assert torch.allclose(Sampler(**how).probabilities(x, used).sum(-1), torch.ones(2)), how
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            draw(torch.tensor([[0.5, 0.5], [0.5, bad]]), torch.zeros(2))

def test_bfloat16_logits():
    x = (torch.randn(2, 100) * 3).bfloat16()
    for t in (0, 1): assert Sampler(t, top_p=0.9).probabilities(x).sum(-1).sub(1).abs().max() < 1e-5


# ---- the draw

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 1 - 2**-24]))
def test_draw_never_takes_the_impossible(V, seed, dart):
    g = torch.Generator().manual_seed(seed)
    probs = torch.rand(4, V, generator=g) * (torch.rand(4, V, generator=g) < 0.3)
    probs[:, int(torch.randint(V, (), generator=g))] += 1e-3
    token = draw(probs / probs.sum(-1, keepdim=True), torch.full((4,), dart))
    assert (probs.gather(1, token[:, None]) > 0).all()

def test_draw_has_the_right_distribution():
    probs = torch.randn(50, generator=torch.Generator().manual_seed(0)).softmax(-1)
    n = 100_000
    darts = torch.rand(n, generator=torch.Generator().manual_seed(1))
    count = draw(probs.expand(n, -1), darts).bincount(minlength=50)
    assert ((count - n * probs) ** 2 / (n * probs)).sum() < 49 + 4 * math.sqrt(2 * 49)

def test_draws_of_generate_have_the_right_distribution():
    model, n = tiny(vocab_size=7), 20_000
    probs = Sampler(1.3, top_k=5).probabilities(model(torch.tensor([[1, 2]]))[:, -1])[0].detach()
    rows = torch.tensor(generate(model, [[1, 2]] * n, 1, temperature=1.3, top_k=5, seed=0))
    count = rows[:, -1].bincount(minlength=7)
    keep = probs > 0
    assert count[~keep].sum() == 0
    assert ((count - n * probs) ** 2 / (n * probs))[keep].sum() < 4 + 4 * math.sqrt(2 * 4)


# ---- greedy against transformers

class Theirs(torch.nn.Module):
    "A model of `transformers` behind our sampler; its cache keeps the ids and reads all again."
    def __init__(self, model, config):
        super().__init__()
        self.model, self.config = model, config
    def new_cache(self, batch_size, max_length=None):
        return SimpleNamespace(ids=torch.zeros(batch_size, 0, dtype=torch.long), length=0)
    def forward(self, ids, cache=None, pad=None):
        cache.ids = torch.cat([cache.ids, ids], 1)
        mask = torch.ones_like(cache.ids)
        if pad is not None: mask = (torch.arange(cache.ids.shape[1]) >= pad[:, None]).long()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return self.model(cache.ids, attention_mask=mask, position_ids=positions).logits


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2", "qwen3"])
def test_seeded_is_that_of_transformers(arch, tmp_path):
    "200 tokens drawn with one seed, from their logits and from ours; prompts of different lengths."
    from transformers import AutoModelForCausalLM
    model = tiny(arch)
    model.save_pretrained(tmp_path)
    their = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    their = Theirs(their, model.config)
    settings = dict(temperature=0.8, top_k=20, seed=5)
    for prompts in ([5, 6, 7], [[5, 6, 7], [1, 2, 3, 4, 5, 6, 7, 8, 9], [60]]):
        ours = generate(model, prompts, 200, **settings)
        assert ours == generate(their, prompts, 200, **settings)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2", "qwen3"])
def test_greedy_is_that_of_transformers(arch, tmp_path):
    "200 tokens, one prompt and a batch of prompts of different lengths, padded on the left."
    from transformers import AutoModelForCausalLM
    model = tiny(arch)
    model.save_pretrained(tmp_path)
    their = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    settings = dict(max_new_tokens=200, do_sample=False, eos_token_id=None, pad_token_id=0)
    prompts = [[5, 6, 7], [1, 2, 3, 4, 5, 6, 7, 8, 9], [60]]
    theirs = their.generate(torch.tensor([prompts[0]]), **settings)[0].tolist()
    assert generate(model, prompts[0], 200, temperature=0) == theirs
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    theirs = their.generate(ids, attention_mask=mask, **settings).tolist()
    ours = generate(model, prompts, 200, temperature=0)
    varied = max(len(set(row)) for row in ours)
    assert varied > 20, "a continuation that hardly changes would prove little"
    assert ours == [row[width - len(p):] for row, p in zip(theirs, prompts)]

def test_greedy_with_penalty_is_that_of_transformers(tmp_path):
    from transformers import AutoModelForCausalLM
    model = tiny("llama")
    model.save_pretrained(tmp_path)
    their = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    settings = dict(max_new_tokens=60, do_sample=False, eos_token_id=None, pad_token_id=0)
    theirs = their.generate(torch.tensor([[5, 6, 7]]), repetition_penalty=1.5, **settings)
    ours = generate(model, [5, 6, 7], 60, temperature=0, repetition_penalty=1.5)
    assert ours == theirs[0].tolist()

def test_beams_are_those_of_transformers(tmp_path):
    from transformers import AutoModelForCausalLM
    model = tiny("llama")
    model.save_pretrained(tmp_path)
    their = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    settings = dict(max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
    theirs = their.generate(torch.tensor([[5, 6, 7]]), num_beams=4, num_return_sequences=4,
                            **settings)
    assert [b.ids for b in beam_search(model, [5, 6, 7], 20, width=4)] == theirs.tolist()


# ---- cache, batches, seeds, the window

def naive(model, prompt, n):
    "Greedy with no cache, and the window read anew by the documented rule."
    text, start, context = list(prompt), 0, model.config.context
    for _ in range(n):
        if len(text) - start > context: start = len(text) - max(1, context // 2)
        text.append(model(torch.tensor([text[start:]]))[0, -1].argmax().item())
    return text

@torch.inference_mode()
@pytest.mark.parametrize("arch, context", [("gpt2", 16), ("qwen3", 16), ("qwen3", 1), ("gpt2", 3)])
def test_the_window_slides_row_by_row(arch, context):
    model = tiny(arch, context=context)
    prompts = [[1], list(range(1, context + 1)), [7, 8][:context]]
    wanted = [naive(model, p, 60) for p in prompts]
    assert generate(model, prompts, 60, temperature=0) == wanted
    assert [generate(model, p, 60, temperature=0) for p in prompts] == wanted

@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=24), min_size=1, max_size=5),
       st.integers(0, 100),
       st.sampled_from([dict(), dict(temperature=0), dict(top_p=0.8, temperature=0.9),
                        dict(top_k=5, repetition_penalty=1.3), dict(min_p=0.1, stop=[3, [4, 5]])]))
def test_a_batch_equals_one_at_a_time(prompts, seed, how):
    model = tiny(context=24, scale=6.0)
    distinct = [list(p) for p in dict.fromkeys(map(tuple, prompts))]
    together = generate(model, distinct, 40, seed=seed, **how)
    assert together == [generate(model, p, 40, seed=seed, **how) for p in distinct]
    assert together[::-1] == generate(model, distinct[::-1], 40, seed=seed, **how)

def test_seeds():
    model = tiny()
    same = generate(model, [[1, 2]] * 3, 30, seed=5)
    assert len(set(map(tuple, same))) == 3, "copies of a prompt are different draws"
    assert same[0] == generate(model, [1, 2], 30, seed=5) != generate(model, [1, 2], 30, seed=6)
    torch.manual_seed(0); a = generate(model, [1, 2], 30)
    torch.manual_seed(0); b = generate(model, [1, 2], 30)
    assert a == b != generate(model, [1, 2], 30)
    state = torch.random.get_rng_state()
    generate(model, [1, 2], 5, seed=1)
    left = torch.equal(state, torch.random.get_rng_state())
    assert left, "a seed leaves torch's own generator alone"

def test_the_same_kind_comes_back():
    model = tiny()
    row = generate(model, [1, 2], 4, seed=0)
    assert isinstance(row, list) and len(row) == 6
    assert generate(model, (1, 2), 4, seed=0) == row
    assert generate(model, np.array([1, 2], dtype=np.uint16), 4, seed=0) == row
    assert generate(model, [torch.tensor(1), torch.tensor(2)], 4, seed=0) == row
    assert generate(model, [[1, 2]], 4, seed=0) == [row]
    assert generate(model, [torch.tensor([1, 2])], 4, seed=0) == [row]
    out = generate(model, torch.tensor([[1, 2], [3, 4]]), 4, seed=0)
    assert out.shape == (2, 6) and out.dtype == torch.long and out[0].tolist() == row
    assert generate(model, torch.tensor([1, 2]), 4, seed=0).tolist() == row
    assert generate(model, [1, 2], 0) == [1, 2]
    assert generate(model, torch.tensor([[1, 2]]), 0).tolist() == [[1, 2]]
    assert generate(model, [1, 2], 4, seed=0, stop=None) == row
    upto = row[:row.index(row[3], 2) + 1]
    assert generate(model, [1, 2], 4, seed=0, stop=np.int64(row[3])) == upto
    assert generate(model, [1, 2], 4, seed=0, stop=[np.array(row[3:4])]) == upto
    stopped = generate(model, torch.tensor([[1, 2], [3, 4]]), 30, seed=0, stop=[row[2]])
    assert stopped[0, 2:].unique().tolist() == [row[2]]

def test_the_model_is_left_as_it_was():
    model = tiny().train()
    generate(model, [1], 3)
    next(stream(model, Bytes(), [1], 3, stop=()), None)
    beam_search(model, [1], 3)
    speculative(model, model, [1], 3)
    assert model.training
    try: generate(model, [1], 3, stop="x")
    except ValueError: pass
    assert model.training and model(torch.tensor([[1]])).requires_grad

def test_half_precision():
    model = tiny().bfloat16()
    for t in (0, 1):
        rows = generate(model, [[1, 2], [3]], 20, temperature=t, top_p=0.9, seed=0)
        assert len(rows[0]) == 22

def test_a_long_prompt_is_read_in_parts():
    model = tiny(context=1200)
    prompt = [i * i % 61 for i in range(1100)]
    long, shorter = generate(model, [prompt, prompt[:700]], 3, temperature=0)
    assert long == naive(model, prompt, 3) and shorter == naive(model, prompt[:700], 3)


# ---- stops and streaming

def test_stops_only_where_told():
    model, tok = Script(b"one. two. three" + bytes([0]) + b"four"), Bytes()
    def said(**how): return tok.decode(generate(model, [65], 19, temperature=0, tok=tok, **how)[1:])
    for stop, wanted in [((), "one. two. three\0fou"[:19]), (".", "one."), ([". t"], "one. t"),
                         (["x", "two"], "one. two"), (0, "one. two. three\0"),
                         ([list(b"e.")], "one."), ([list(b"ee"), "thr"], "one. two. thr"),
                         (["e. tX", "e. two"], "one. two")]:
        model.calls = 0
        assert said(stop=stop) == wanted[:19], stop

@settings(max_examples=200, deadline=None)
@given(st.text("abc", max_size=30),
       st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3))
def test_stop_filter_against_search(text, stops):
    f, passed, safe = StopFilter(stops), [], []
    for c in text:
        passed += f.feed([c]); safe.append(len(passed))
    ends = [(text.find(s) + len(s), -len(s)) for s in stops if s in text]
    shown = "".join(passed)
    if ends:
        end, length = min(ends)
        assert f.done and shown == text[:end + length]
    else: assert not f.done and shown + "".join(f.held) == text

texts = st.text(st.sampled_from("aé猫🙂 .今天"), min_size=1, max_size=20)

@settings(max_examples=100, deadline=None)
@given(texts, st.lists(texts, max_size=2))
def test_stream_shows_whole_characters_and_no_stop(text, stops):
    tok = Bytes()
    model, n = Script(text.encode()), len(text.encode())
    pieces = list(stream(model, tok, "x", n, stop=stops, temperature=0))
    wanted = text
    ends = [(text.find(s) + len(s), -len(s)) for s in stops if s in text]
    if ends: wanted = text[:min(ends)[0] + min(ends)[1]]
    assert "".join(pieces) == wanted and "\ufffd" not in "".join(pieces) and all(pieces)

def test_stream_ends():
    tok = Bytes()
    def said(text, n, **how):
        return "".join(stream(Script(text), tok, "x", n, temperature=0, **how))
    assert said("天气".encode(), 5) == "天", "half a character at the end is not shown"
    assert said(b"ab\xffcd", 5) == "ab\ufffdcd", "bytes that are no text, as in decode"
    assert said([97, 256, 98], 9) == "a", "the end token ends, unseen"
    assert said([97, 256, 98], 3, stop=["b"]) == "a", "also where there are other stops"
    held = said(b"abab.", 4, stop=["abx", [98, 97, 99]])
    assert held == "abab", "what was held back comes at last"
    assert list(stream(Script(b"ab"), tok, "x", 0)) == []

def upto(ids, ends):
    "Ids before the first of `ends`."
    return next((ids[:i] for i, token in enumerate(ids) if token in ends), ids)

def test_stream_is_generate():
    model, tok = tiny(vocab_size=257), Bytes()
    ids = generate(model, [256] + tok.encode("Mia"), 50, top_p=0.9, seed=3)
    text = "".join(stream(model, tok, "Mia", 50, stop=(), seed=3, top_p=0.9))
    assert text.rstrip("\ufffd") == tok.decode(upto(ids[4:], [256])).rstrip("\ufffd")

class Lines(Script):
    "Says to each row the text of its own that its prompt, one byte, chooses."
    def __init__(self, texts):
        super().__init__(b"?")
        self.texts = texts
    def forward(self, ids, cache=None, pad=None):
        if self.calls == 0: self.rows = [self.texts[row[-1]] for row in ids.tolist()]
        logits = torch.zeros(*ids.shape, 257)
        for i, text in enumerate(self.rows): logits[i, -1, text[self.calls % len(text)]] = 100.0
        self.calls += 1
        return logits

end = Bytes.end_id
LINES = {97: [*b"one. two. three", end, *b"four"],
         98: [*"猫. and 狗".encode(), end],
         99: [end, 120],
         100: list(b"no end of it"),
         101: [*b"on", end, *b"e."]}

WHOLE = ["one. two. three", "猫. and 狗", "", "no end of itno end", "on"]

@pytest.mark.parametrize("stop, short, kept", [
    (None, WHOLE, WHOLE),
    ((), WHOLE, WHOLE),
    (end, WHOLE, WHOLE),
    (".", ["one", "猫", *WHOLE[2:]], ["one.", "猫.", *WHOLE[2:]]),
    ([". t", "and"], ["one", "猫. ", *WHOLE[2:]], ["one. t", "猫. and", *WHOLE[2:]]),
    ([end, list(b"o e")], [*WHOLE[:3], "n", "on"], [*WHOLE[:3], "no e", "on"]),
    ("one.", ["", *WHOLE[1:]], ["one.", *WHOLE[1:]])])
def test_each_row_of_texts_ends_at_its_own_stop(stop, short, kept):
    "At the end token and at every stop; the stop itself is cut off, or kept when asked."
    tok, prompts, how = Bytes(), list("abcde"), dict(stop=stop, temperature=0)
    assert generate(Lines(LINES), prompts, 18, tok=tok, **how) == short
    assert generate(Lines(LINES), prompts, 18, tok=tok, keep_stop=True, **how) == kept
    for keep, wanted in ((False, short), (True, kept)):
        texts = [""] * 5
        for i, piece in stream(Lines(LINES), tok, prompts, 18, keep_stop=keep, **how):
            assert piece and "\ufffd" not in piece
            texts[i] += piece
        assert texts == wanted
        alone = [generate(Lines(LINES), p, 18, tok=tok, keep_stop=keep, **how) for p in prompts]
        assert alone == wanted

def test_ids_stop_only_where_told():
    "Also at no end token, whether the tokenizer is given or not; each row at its own stop."
    tok, rows = Bytes(), [[97], [98], [99], [101]]
    said = [LINES[i] for (i,) in rows]
    def written(**how): return generate(Lines(LINES), rows, 4, temperature=0, **how)
    for how in ({}, dict(tok=tok), dict(stop=None), dict(stop=[]), dict(keep_stop=True, tok=tok)):
        assert written(**how) == [r + (s * 2)[:4] for r, s in zip(rows, said)], how
    ended = written(stop=[end, "n"], tok=tok)
    assert ended == [[97, *b"on"], [98, *said[1][:4]], [99, end], [101, *b"on"]]
    grid = generate(Lines(LINES), torch.tensor(rows), 4, temperature=0, stop=[end, "n"], tok=tok)
    assert [r[:len(e)] for r, e in zip(grid.tolist(), ended)] == ended
    assert [set(r[len(e):]) <= {e[-1]} for r, e in zip(grid.tolist(), ended)] == [True] * 4

def test_a_stream_of_texts_comes_as_it_is_written():
    tok, model = Bytes(), Lines(LINES)
    told = stream(model, tok, ["a", "d"], 10**6, temperature=0)
    assert [next(told) for _ in range(4)] == [(0, "o"), (1, "n"), (0, "n"), (1, "o")]
    assert model.calls == 2
    assert list(stream(Lines(LINES), tok, [[97], [99]], 3, temperature=0)) == [
        (0, "o"), (0, "n"), (0, "e")], "several prompts of ids are several texts too"

@settings(max_examples=15, deadline=None)
@given(st.lists(st.text("ab猫", min_size=1, max_size=6), min_size=1, max_size=5, unique=True),
       st.integers(0, 100), st.sampled_from([None, "e", ["th", 65], [[97, 98]]]), st.booleans())
def test_streams_of_texts_are_generate(prompts, seed, stop, keep):
    model, tok = tiny(vocab_size=257, scale=6.0), Bytes()
    how = dict(seed=seed, stop=stop, keep_stop=keep)
    texts = [""] * len(prompts)
    for i, piece in stream(model, tok, prompts, 20, **how): texts[i] += piece
    assert texts == generate(model, prompts, 20, tok=tok, **how)
    assert texts[-1] == "".join(stream(model, tok, prompts[-1], 20, **how))

@pytest.mark.parametrize("n", [10**12, 10**20])
def test_an_end_far_away_takes_no_memory(n):
    model = tiny(context=16)
    long = generate(model, [1, 2], 300, seed=0)
    assert long[:42] == generate(model, [1, 2], 40, seed=0) and len(set(long[-40:])) > 1
    assert generate(model, [1, 2], n, seed=0, stop=[long[30]]) == long[:long.index(long[30], 2) + 1]
    assert next(stream(model, Bytes(), [1, 2], n, seed=0))

def test_stream_is_lazy():
    model = Script(b"abc")
    pieces = stream(model, Bytes(), "x", 1000, temperature=0)
    assert next(pieces) == "a" and model.calls == 1
    pieces.close()
    assert model.training


# ---- beams and guesses

class Table(torch.nn.Module):
    """The simplest model: the next token depends on the last one and on how many there are.
    Its cache only counts."""
    def __init__(self, vocab_size, seed):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.table = torch.nn.Parameter(2 * torch.randn(20, vocab_size, vocab_size, generator=g))
        self.config = SimpleNamespace(vocab_size=vocab_size, context=20)
    def new_cache(self, batch_size, max_length=None):
        cache = SimpleNamespace(length=0)
        cache.truncate = lambda length: setattr(cache, "length", length)
        return cache
    def forward(self, ids, cache=None, pad=None):
        past = cache.length if cache else 0
        if cache: cache.length += ids.shape[1]
        return self.table[torch.arange(past, past + ids.shape[1]), ids]


def exact(model, prompt, n, sampler=Sampler()):
    "The probability of every continuation."
    if n == 0: return {(): 1.0}
    probs = sampler.probabilities(model(torch.tensor([prompt]))[:, -1])[0].tolist()
    found = {}
    for t, p in enumerate(probs):
        rests = exact(model, prompt + [t], n - 1, sampler)
        found |= {(t,) + rest: p * q for rest, q in rests.items()}
    return found

@torch.inference_mode()
def test_a_wide_beam_finds_everything():
    model = tiny(vocab_size=4, scale=5.0)
    truth = sorted(exact(model, [1], 4).items(), key=lambda kv: -kv[1])
    beams = beam_search(model, [1], 4, width=256, length_penalty=0)
    assert [tuple(b.ids[1:]) for b in beams] == [text for text, _ in truth]
    assert all(abs(math.exp(b.log_prob) - p) < 1e-5 for b, (_, p) in zip(beams, truth))

@torch.inference_mode()
def test_beams_that_end():
    model = tiny(vocab_size=4, scale=3.0)
    texts = Counter()
    for text, p in exact(model, [1], 5).items():
        end = text.index(2) + 1 if 2 in text else 5
        texts[text[:end]] += p
    for penalty in (0, 0.7, 1.5):
        def score(t): return math.log(texts[t]) / len(t) ** penalty
        truth = sorted(texts, key=score, reverse=True)[:6]
        beams = beam_search(model, [1], 5, width=256, length_penalty=penalty, stop=[2])
        assert [tuple(b.ids[1:]) for b in beams][:6] == truth

def test_one_beam_is_greedy():
    model = tiny()
    greedy = generate(model, [3, 4], 50, temperature=0)
    assert beam_search(model, [3, 4], 50, width=1)[0].ids == greedy
    assert beam_search(model, [3, 4], 0)[0].ids == [3, 4]

@torch.inference_mode()
@pytest.mark.parametrize("lookahead", [1, 3])
def test_speculative_distribution(lookahead):
    "Chi-square over all 3-token continuations; the draft disagrees with the model."
    model, draft, n = Table(3, 0), Table(3, 1), 4000
    truth = exact(model, [1], 3, Sampler(0.9, top_p=0.9))
    how = dict(lookahead=lookahead, temperature=0.9, top_p=0.9)
    count = Counter(tuple(speculative(model, draft, [1], 3, **how, seed=s)[1:]) for s in range(n))
    likely = [t for t, p in truth.items() if n * p >= 5]
    assert all(truth[t] > 0 for t in count) and len(likely) > 5
    other = n - sum(count[t] for t in likely), n * (1 - sum(truth[t] for t in likely))
    chi = sum((count[t] - n * truth[t]) ** 2 / (n * truth[t]) for t in likely)
    chi += (other[0] - other[1]) ** 2 / max(other[1], 1)
    assert chi < len(likely) + 4 * math.sqrt(2 * len(likely))

def test_speculative_greedy_is_greedy():
    model, draft = tiny(), tiny(seed=1)
    wanted = generate(model, [1, 2], 30, temperature=0)
    for d, k in itertools.product((draft, model), (1, 4, 100)):
        assert speculative(model, d, [1, 2], 30, lookahead=k, temperature=0) == wanted
    once = speculative(model, draft, [1, 2], 50, seed=3)
    assert once == speculative(model, draft, [1, 2], 50, seed=3)
    assert speculative(model, draft, [1, 2], 0) == [1, 2]


# ---- bad input

@pytest.mark.parametrize("how, named", [
    (dict(temperature=-0.1), "temperature"), (dict(temperature=math.nan), "temperature"),
    (dict(temperature=math.inf), "temperature"),
    (dict(top_k=0), "top_k"), (dict(top_k=-3), "top_k"), (dict(top_k=1.5), "top_k"),
    (dict(top_k=math.inf), "top_k"),
    (dict(top_p=0.0), "top_p"), (dict(top_p=1.01), "top_p"),
    (dict(repetition_penalty=1e-300), "repetition_penalty"),
    (dict(top_p=math.nan), "top_p"), (dict(min_p=-0.1), "min_p"), (dict(min_p=1.1), "min_p"),
    (dict(repetition_penalty=0), "repetition_penalty"),
    (dict(ids=[]), "empty"), (dict(ids=[[1], []]), "empty"), (dict(ids=[[]]), "empty"),
    (dict(ids=[1] * 17), "context"), (dict(ids=[[1], [1] * 17]), "context"),
    (dict(ids=[61]), "61"), (dict(ids=[-1]), "-1"), (dict(max_new_tokens=-1), "max_new_tokens"),
    (dict(stop="."), "tok"), (dict(stop=[[]]), "empty"), (dict(stop=[""]), "empty")])
def test_bad_input_is_refused(how, named):
    model = tiny(context=16)
    tok = None if named == "tok" else Bytes()
    with pytest.raises(ValueError, match=named):
        generate(model, **dict(ids=[1], max_new_tokens=3, tok=tok) | how)
    if named != "tok":
        settings = dict(prompt=how.get("ids", [1]), max_new_tokens=3)
        settings |= {k: v for k, v in how.items() if k != "ids"}
        if not (settings["prompt"] and isinstance(settings["prompt"][0], list)):
            with pytest.raises(ValueError, match=named): stream(model, Bytes(), **settings)

def test_wrong_types_are_refused():
    model = tiny(context=16)
    with pytest.raises(TypeError, match="encode"): generate(model, "Mia", 3)
    for bad in ([1.5], [1, None], None, b"Mia", 5, [[1], [1.5]]):
        with pytest.raises(TypeError, match="^ids .*expected"): generate(model, bad, 3)
    for bad in (1.5, "3", None):
        with pytest.raises(TypeError, match="max_new_tokens is .*whole"): generate(model, [1], bad)
        for name in ("width", "lookahead"):
            with pytest.raises(TypeError, match=f"{name} is .*whole"):
                if name == "width": beam_search(model, [1], 3, width=bad)
                else: speculative(model, model, [1], 3, lookahead=bad)
    for bad in (1.5, [1.5], [None], b".", [b"."], [["."]]):
        with pytest.raises(TypeError, match="stop holds .*texts"): generate(model, [1], 3, stop=bad)
    for bad in ("a", ["a"], [[1]], 1.5):
        with pytest.raises(TypeError, match="stop is .*token ids"):
            beam_search(model, [1], 3, stop=bad)
    run = SimpleNamespace(model=model, config=TrainConfig(steps=1))
    for bad in ("tales-en", Bytes(), run):
        with pytest.raises(TypeError, match="model is a .*run.model"): generate(bad, [1], 3)
        with pytest.raises(TypeError, match="model is a .*run.model"): stream(bad, model, "Mia", 3)
    with pytest.raises(TypeError, match="temprature"): stream(model, Bytes(), [1], 3, temprature=1)
    with pytest.raises(ValueError, match="context"): beam_search(model, [1] * 10, 7)
    with pytest.raises(ValueError, match="context"): speculative(model, tiny(context=5), [1] * 4, 3)
    with pytest.raises(ValueError, match="one at a time"): beam_search(model, [[1], [2]], 3)
    with pytest.raises(ValueError, match="width"): beam_search(model, [1], 3, width=0)
    with pytest.raises(ValueError, match="lookahead"):
        speculative(model, model, [1], 3, lookahead=0)


# ---- texts in, texts out; more rows than tokens

def test_a_text_comes_back_as_text():
    model, tok = tiny(vocab_size=257), Bytes()
    one = generate(model, "Mia", 20, seed=2, tok=tok)
    assert one == "".join(stream(model, tok, "Mia", 20, seed=2))
    both = generate(model, ["Mia", "Once"], 20, seed=2, tok=tok)
    assert both == [one, generate(model, "Once", 20, seed=2, tok=tok)]
    said = Script(b"one. two")
    assert generate(said, "x", 8, temperature=0, tok=tok) == "one. two"
    said.calls = 0
    assert generate(said, "x", 8, temperature=0, stop=" t", tok=tok) == "one."
    assert generate(said, ("x", "y"), 0, tok=tok) == ["", ""]
    column = pd.Series({"a": "Mia", "b": "Once"})
    for many in (("Mia", "Once"), np.array(["Mia", "Once"]), column):
        assert generate(model, many, 20, seed=2, tok=tok) == both
    for many in (iter(["Mia", "Once"]), (text for text in ("Mia", "Once"))):
        assert generate(model, many, 20, seed=2, tok=tok) == both
    told = list(stream(model, tok, iter(["Mia", "Once"]), 20, seed=2))
    assert ["".join(piece for i, piece in told if i == row) for row in (0, 1)] == both
    assert generate(model, iter([1, 2]), 5, seed=2) == generate(model, [1, 2], 5, seed=2)
    assert beam_search(model, iter([1, 2]), 3) == beam_search(model, [1, 2], 3)
    for given in ("Mia", ["Mia"], ("Mia", "Once"), column):
        with pytest.raises(TypeError, match=r"'Mia'.*tok\.encode.*tok="): generate(model, given, 3)

def test_a_text_begins_and_ends_as_the_config_says():
    "Checkpoints of others: a token of its own begins a text, several end one."
    model, tok = tiny(vocab_size=257), Bytes()
    plain = generate(model, [256, *b"Mia"], 40, temperature=0)
    assert generate(model, "Mia", 5, temperature=0, tok=tok) == tok.decode(plain[4:9])
    model.config = replace(model.config, bos_token_id=7)
    new = generate(model, [7, *b"Mia"], 40, temperature=0)[4:]
    first, second = list(dict.fromkeys(new))[3:5]
    for ends in (first, (second, first)):
        model.config = replace(model.config, eos_token_id=ends)
        want = bytes(new[:new.index(first)]).decode(errors="replace")
        for keep in (False, True):
            how = dict(temperature=0, keep_stop=keep)
            assert generate(model, "Mia", 40, tok=tok, **how) == want
            assert "".join(stream(model, tok, "Mia", 40, **how)) == want
    found = beam_search(model, [7, *b"Mia"], 20, width=3, stop=first)
    assert found == beam_search(model, [7, *b"Mia"], 20, width=3, stop=[first])

def test_streams_side_by_side_leave_the_model_as_it_was():
    model, tok = tiny(vocab_size=257), Bytes()
    for mode in (True, False):
        model.train(mode)
        one, other = (stream(model, tok, "Mia", 5, seed=0) for _ in range(2))
        next(one), next(other)
        one.close()
        assert not model.training
        other.close()
        assert model.training == mode

@pytest.mark.parametrize("rows", [269, 320])
def test_an_id_without_a_token_is_no_text(rows):
    "The text of what stands around it; a stop that spans it is found."
    tok = BPETokenizer.train(["今 END."], 257)
    said = []
    for i in tok.encode("今 END.") + [tok.end_id]: said += [i, 257, rows - 1]
    assert len(said) > 20, "a character in pieces"
    def written(stop):
        model = Script(said, vocab_size=rows)
        return "".join(stream(model, tok, "x", len(said), stop=stop, temperature=0))
    assert written(None) == "今 END." and written(["END"]) == "今 "
    assert written([tok.encode("N") + [257]]) == "今 E"
    model = Script(said, vocab_size=rows)
    assert generate(model, "x", 99, temperature=0, stop=["今 E"], tok=tok) == ""
    model.calls = 0
    ids = generate(model, [65], 99, temperature=0, stop=["今 E"], tok=tok)
    assert ids == [65] + said[:said.index(tok.encode("E")[0]) + 1]

@pytest.mark.parametrize("sizes", [(61, 64), (64, 61)])
def test_a_draft_filled_up_to_other_rows(sizes):
    "The model and its draft share their tokens, and each has rows of its own number."
    model, draft = tiny(vocab_size=sizes[0]), tiny(vocab_size=sizes[1], seed=1)
    wanted = generate(model, [1, 2], 30, temperature=0)
    assert speculative(model, draft, [1, 2], 30, temperature=0) == wanted
    assert max(speculative(model, draft, [1, 2], 60, temperature=3.0, seed=0)) < sizes[0]

@torch.inference_mode()
@pytest.mark.parametrize("n", [2, 5])
def test_speculative_distribution_with_a_draft_of_other_rows(n):
    model, draft, times = Table(3, 0), Table(n, 1), 3000
    drafted = [tuple(speculative(model, draft, [1], 2, seed=s)[1:]) for s in range(times)]
    count, truth = Counter(drafted), exact(model, [1], 2)
    chi = sum((count[t] - times * p) ** 2 / (times * p) for t, p in truth.items())
    assert chi < 8 + 4 * math.sqrt(2 * 8)

def test_weights_that_are_no_numbers_are_told():
    model = tiny()
    with torch.no_grad(): model.lm_head.weight.fill_(math.nan)
    for t in (0, 1):
        with pytest.raises(ValueError, match="NaN or infinity"):
            generate(model, [1], 3, temperature=t)

def test_writing_looks_at_no_number(monkeypatch):
    """A look at a number of a tensor is a wait on a GPU: they must not grow with steps or prompt.
    What is looked at only on a CPU is left out here."""
    import gpt_nb.model, gpt_nb.sampling
    model, looks, check = tiny(), [], gpt_nb.sampling.check_finite
    monkeypatch.setattr(gpt_nb.model, "outside", lambda ids, config: None)
    monkeypatch.setattr(gpt_nb.sampling, "check_finite",
                        lambda x, name: None if name == "probs" else check(x, name))
    def counted(look): return lambda x, *args: looks.append(look) or look(x, *args)
    for name in ("item", "tolist", "cpu", "nonzero", "__bool__", "__int__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name)))
    counts = []
    for T, n in ((2, 5), (2, 50), (40, 5)):
        looks.clear()
        ids = torch.arange(2 * T).view(2, T) % 61
        generate(model, ids, n, top_p=0.9, repetition_penalty=1.1)
        counts.append(len(looks))
    assert counts[0] == counts[1] == counts[2] < 10


def plain_model(arch="qwen3", dtype=torch.float32):
    torch.manual_seed(0)
    config = GPTConfig(arch, vocab_size=90, context=40, n_layer=2, n_head=4, d_model=64)
    return GPT(config).to(dtype).eval()


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("rows", [1, 3, 8])
@torch.inference_mode()
def test_a_packed_model_says_the_same(arch, rows):
    model, ids = plain_model(arch), torch.randint(90, (rows, 12))
    torch.testing.assert_close(pack(model, rows)(ids), model(ids), atol=1e-5, rtol=1e-5)
    short = plain_model(arch, torch.bfloat16)
    exact = copy.deepcopy(short).float()(ids)
    off = (pack(short, rows)(ids) - exact).abs().max()
    if sampling.can_halve(short): assert off < 1e-5     # far nearer than 16 bits themselves
    assert off <= (short(ids) - exact).abs().max()


@pytest.mark.parametrize("rows", [1, 3])
def test_a_packed_model_writes_the_same_texts(rows):
    model, prompts = plain_model(), [[1, 2, 3], [4], [5, 6]][:rows]
    how = dict(max_new_tokens=60, temperature=0.8, top_k=20, seed=3)     # past the context as well
    assert generate(pack(model, rows), prompts, **how) == generate(model, prompts, **how)


def test_packing_leaves_the_model_as_it_was():
    for model in (plain_model(), plain_model(dtype=torch.bfloat16)):
        before = {name: (w, w.clone()) for name, w in model.named_parameters()}
        pack(model), pack(model, 4)
        for name, weight in model.named_parameters():
            assert weight is before[name][0] and torch.equal(weight, before[name][1])
            assert weight.requires_grad and weight.is_contiguous()
        model.loss(torch.tensor([[1, 2]]), torch.tensor([[2, 3]])).backward()     # it still learns


def test_packed_weights_too_large_for_float16_stay_as_they_are():
    model = plain_model(dtype=torch.bfloat16)
    with torch.no_grad(): model.lm_head.weight[0, 0] = 1e5
    ids = torch.tensor([[1, 2, 3]])
    assert not sampling.can_halve(model)
    assert torch.equal(pack(model)(ids), model(ids))


def test_a_packed_model_is_saved_whole_or_not_at_all(tmp_path):
    model = plain_model()
    pack(model).save_pretrained(tmp_path / "columns")
    opened = GPT.from_pretrained(tmp_path / "columns")
    kept = opened.state_dict()
    for name, weight in model.state_dict().items(): assert torch.equal(kept[name], weight)
    # where torch has neither oneDNN nor FBGEMM, nothing is packed
    for other in (pack(model, 4), pack(plain_model(dtype=torch.bfloat16))):
        if not any(isinstance(m, sampling.Packed) for m in other.modules()): continue
        with pytest.raises(ValueError, match="save the model it was made from"):
            other.save_pretrained(tmp_path / "other")


def test_what_cannot_be_packed():
    with pytest.raises(ValueError, match="rows is 0"): pack(plain_model(), 0)
    with pytest.raises(TypeError, match="rows is 1.5"): pack(plain_model(), 1.5)
    with pytest.raises(ValueError, match="pack is for a CPU"): pack(plain_model().to("meta"))


def with_large_layers(arch="gpt2", dtype=torch.float32):
    torch.manual_seed(0)
    config = GPTConfig(arch, vocab_size=90, context=40, n_layer=2, n_head=4, d_model=256, d_ff=1024)
    return GPT(config).to(dtype).eval()


needs_numba = pytest.mark.skipif(sampling.row_loop(torch.float32) is None,
                                 reason="pip install numba: the loop is compiled by it")


@pytest.fixture
def at_once(monkeypatch):
    "The loop is taken from the second step on; what it multiplied is counted."
    compiled, taken = sampling.row_loop, []
    def counted(*how):
        loop = compiled(*how)
        return loop and (lambda weight, *rest: taken.append(weight.shape) or loop(weight, *rest))
    monkeypatch.setattr(sampling, "row_loop", counted)
    monkeypatch.setattr(sampling, "PATIENCE", 0)
    return taken


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_share_the_outputs_of_the_loop(dtype):
    weight, x = torch.randn(33, 70).to(dtype), torch.randn(70)
    if dtype != torch.float32: weight = weight.view(torch.uint16)
    def by(threads):
        out = torch.full((33,), torch.nan)
        torch.set_num_threads(threads)
        sampling.through_loop(weight, x, out, dtype)
        assert torch.get_num_threads() == threads     # what Numba sets is put back
        return out
    before = torch.get_num_threads()
    try:
        alone = by(1)
        assert alone.isfinite().all()
        assert all(torch.equal(by(threads), alone) for threads in (2, 5, 40))
    finally: torch.set_num_threads(before)


@needs_numba
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_takes_the_loop_alone():
    layer, x = sampling.by_rows(torch.nn.Linear(70, 33)), torch.randn(70)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.no_grad(): said = layer(x)
        child = os.fork()
        if child == 0:     # two threads would end the process here
            with torch.no_grad(): os._exit(0 if torch.equal(layer(x), said) else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally: torch.set_num_threads(before)


@needs_numba
@pytest.mark.parametrize("dtype, within", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("shape", [(70,), (1, 70), (1, 1, 70)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_row_through_the_loop(dtype, within, shape, bias):
    layer = torch.nn.Linear(70, 33, bias=bias).to(dtype)
    loop, x = sampling.by_rows(layer), torch.randn(shape).to(dtype)
    with torch.no_grad():
        said = loop(x)
        assert said.shape == layer(x).shape and said.dtype == dtype
        exact = torch.nn.functional.linear(x.double(), layer.weight.double(),
                                           layer.bias.double() if bias else None)
        assert (said - exact).abs().max() <= within * exact.abs().max()
        torch.set_default_dtype(torch.float64)
        try: assert torch.equal(loop(x), said)
        finally: torch.set_default_dtype(torch.float32)
        layer.weight[0, 0] = torch.inf
        assert not loop(x).flatten()[0].isfinite()     # what is wrong stays to be seen


def test_only_a_row_without_gradient_goes_through_the_loop(at_once):
    layer, x = sampling.by_rows(torch.nn.Linear(8, 4)), torch.randn(1, 1, 8)
    loss = layer(x).sum()
    loss.backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        layer(torch.randn(2, 8))
        with torch.autocast("cpu"): assert layer(x).dtype == torch.bfloat16
        sampling.by_rows(torch.nn.Linear(8, 4).half())(x.half())
        sampling.by_rows(sampling.by_columns(torch.nn.Linear(8, 4)))(x)
    assert not at_once


@needs_numba
@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_text_is_written_by_the_loop(at_once, monkeypatch, arch, dtype):
    model, how = with_large_layers(arch, dtype), dict(temperature=0.8, top_k=20, seed=3)
    looped = generate(model, [1, 2, 3], 60, **how)           # past the context as well
    assert (1024, 256) in at_once and (90, 256) not in at_once    # large layers only
    assert not any(type(layer) is sampling.Rows for layer in model.modules())
    at_once.clear()
    monkeypatch.setattr(sampling, "PATIENCE", 1e30)
    assert generate(model, [1, 2, 3], 60, **how) == looped and not at_once
    model.loss(torch.tensor([[1, 2]]), torch.tensor([[2, 3]])).backward()     # it still learns


@needs_numba
def test_the_loop_ends_with_its_last_writer(at_once):
    model = with_large_layers()
    def writer(): return sampling.next_tokens(model, [torch.tensor([1])], 30, Sampler(), seed=0)
    def looped(): return any(type(layer) is sampling.Rows for layer in model.modules())
    first, second = writer(), writer()
    for _ in range(3): next(first), next(second)
    assert looped()
    first.close()                    # given up half-way
    assert looped() and len(list(second)) == 27
    assert not looped() and not model.training


def test_large_pages_hold_the_same_weights_at_the_same_place():
    for numbers in (3, 2_000_000):
        weight = torch.randn(numbers)
        before, place = weight.clone(), weight.data_ptr()
        sampling.on_large_pages(weight)
        weight[1:].add_(1)                      # still to be written to
        before[1:].add_(1)
        assert torch.equal(weight, before) and weight.data_ptr() == place
    sampling.on_large_pages(torch.empty(2_000_000, device="meta"))


def test_several_texts_and_small_models_are_left_alone(at_once):
    large, small = with_large_layers(), plain_model()
    assert sampling.steps_before_loop(large, 1) == 1
    assert sampling.steps_before_loop(large, 2) is None
    assert sampling.steps_before_loop(small, 1) is None
    generate(large, [[1], [2]], 4)
    generate(small, [1], 4)
    assert not at_once


def test_writing_without_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    sampling.row_loop.cache_clear()
    monkeypatch.setattr(sampling, "PATIENCE", 0)
    model, ids = with_large_layers(), torch.tensor([[1]])
    assert sampling.row_loop(torch.float32) is None
    assert len(generate(model, [1], 5, seed=0)) == 6
    with torch.no_grad(): torch.testing.assert_close(pack(model)(ids), model(ids))
    sampling.row_loop.cache_clear()
