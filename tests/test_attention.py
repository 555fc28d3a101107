"""Attention against loops written out, whatever its shape; rotary positions by distance alone; the
cache against none; errors."""
import math
import subprocess
import sys
from typing import Annotated

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from gpt_nb import attention
from gpt_nb.attention import (
    Attention, KVCache, RMSNorm, causal_mask, rope, rope_frequencies, rope_table,
)

some = settings(max_examples=40, deadline=None, derandomize=True)


def close(a, b, eps=1e-5):
    assert a.shape == b.shape and a.dtype == b.dtype
    assert torch.isfinite(a).all()
    torch.testing.assert_close(a, b, rtol=0, atol=eps * max(1.0, b.abs().max().item()))


@st.composite
def layers(draw, d_head=st.sampled_from([2, 4, 6, 16])):
    "A random layer, whose norms and biases are random too."
    n_kv_head, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    torch.manual_seed(draw(st.integers(0, 99)))
    d_model, K = draw(st.integers(1, 20)), draw(d_head)
    bias, qk_norm = draw(st.booleans()), draw(st.booleans())
    layer = Attention(d_model, n_kv_head * groups, n_kv_head, K, bias=bias, qk_norm=qk_norm)
    for p in layer.parameters(): torch.nn.init.normal_(p, std=0.5)
    return layer.requires_grad_(False)


def width(layer): return layer.q_proj.in_features


def positions_of(start, n, pad=None):
    positions = torch.arange(start, start + n)
    return positions if pad is None else (positions - pad[:, None]).clamp(min=0)


def rotation_of(layer, start, n, pad=None):
    return rope_table(positions_of(start, n, pad), rope_frequencies(layer.d_head))


def turn_by_pairs(vector, position, frequencies):
    "Each pair as a complex number, in double precision."
    half, out = len(vector) // 2, vector.double().clone()
    for i in range(half):
        angle = position * frequencies[i]
        z = complex(vector[i], vector[i + half]) * complex(math.cos(angle), math.sin(angle))
        out[i], out[i + half] = z.real, z.imag
    return out


def root_mean_square_norm(norm, vector):
    if isinstance(norm, torch.nn.Identity): return vector
    return vector / math.sqrt(vector.pow(2).mean() + norm.eps) * norm.weight.double()


def linear(projection, v):
    bias = 0 if projection.bias is None else projection.bias.double()
    return projection.weight.double() @ v + bias


def by_loops(layer, x, rotate):
    "One text, (T, D) -> (T, D): no matrix product over tokens or heads, no mask, no torch softmax."
    K, x = layer.d_head, x.double()
    n_head, n_kv_head = layer.q_proj.out_features // K, layer.k_proj.out_features // K
    frequencies = [10000 ** (-2 * i / K) for i in range(K // 2)]
    turn = lambda v, s: turn_by_pairs(v, s, frequencies) if rotate else v

    def key_of(s, part):
        return turn(root_mean_square_norm(layer.k_norm, linear(layer.k_proj, x[s])[part]), s)

    out = []
    for t in range(len(x)):
        heads = []
        for h in range(n_head):
            shared = h // (n_head // n_kv_head)
            mine, theirs = slice(h * K, (h + 1) * K), slice(shared * K, (shared + 1) * K)
            query = turn(root_mean_square_norm(layer.q_norm, linear(layer.q_proj, x[t])[mine]), t)
            keys = [key_of(s, theirs) for s in range(t + 1)]
            values = [linear(layer.v_proj, x[s])[theirs] for s in range(t + 1)]
            scores = [(query @ key).item() / math.sqrt(K) for key in keys]
            weights = [math.exp(score - max(scores)) for score in scores]
            heads.append(sum(w / sum(weights) * value for w, value in zip(weights, values)))
        out.append(linear(layer.o_proj, torch.cat(heads)))
    return torch.stack(out)


@settings(some, max_examples=30)
@given(layers(), st.integers(1, 3), st.integers(1, 7), st.booleans())
def test_layer_is_the_loops(layer, B, T, rotate):
    x = torch.randn(B, T, width(layer))
    out = layer(x, rotation_of(layer, 0, T) if rotate else None)
    close(out.double(), torch.stack([by_loops(layer, row, rotate) for row in x]))


@some
@given(layers(), st.integers(1, 9))
def test_grouped_queries_are_repeated_heads(layer, T):
    K, D = layer.d_head, width(layer)
    n_head, n_kv_head = layer.q_proj.out_features // K, layer.k_proj.out_features // K
    bias = layer.q_proj.bias is not None
    full = Attention(D, n_head, n_head, K, bias=bias, qk_norm=isinstance(layer.q_norm, RMSNorm))
    state = layer.state_dict()
    for name in [n for n in state if n.startswith(("k_proj", "v_proj"))]:
        heads = state[name].unflatten(0, (n_kv_head, K))
        state[name] = heads.repeat_interleave(n_head // n_kv_head, 0).flatten(0, 1)
    full.load_state_dict(state)
    x, rotation = torch.randn(2, T, D), rotation_of(layer, 0, T)
    close(layer(x, rotation), full(x, rotation).detach())


@some
@given(layers(), st.integers(2, 12), st.data())
def test_no_output_sees_the_future(layer, T, data):
    t = data.draw(st.integers(0, T - 2))
    x = torch.randn(1, T, width(layer))
    changed = x.clone()
    changed[:, t + 1:] = torch.randn_like(changed[:, t + 1:]) * 100
    before, after = layer(x), layer(changed)
    close(after[:, :t + 1], before[:, :t + 1])


@some
@given(st.sampled_from([2, 6, 64]), st.integers(0, 300), st.integers(0, 300), st.integers(0, 500),
       st.sampled_from([100.0, 1e4, 1e6]))
def test_rope_knows_distances_only(K, m, n, shift, theta):
    q, k = torch.randn(2, 1, 1, 1, K)
    frequencies = rope_frequencies(K, theta)
    at = lambda x, position: rope(x, *rope_table(torch.tensor([position]), frequencies))
    score = lambda m, n: (at(q, m) * at(k, n)).sum()
    assert abs(score(m, n) - score(m + shift, n + shift)) < 2e-4 * q.norm() * k.norm()
    close(at(q, m).norm(), q.norm())
    close(at(q, 0), q)


@some
@given(st.sampled_from([2, 8, 10]), st.integers(1, 5), st.integers(1, 5), st.integers(0, 40))
def test_rope_turns_each_pair(K, B, T, start):
    x, frequencies = torch.randn(B, 2, T, K), rope_frequencies(K)
    positions = torch.arange(start, start + T)
    out = rope(x, *rope_table(positions, frequencies))
    for b in range(B):
        for t in range(T):
            turned = turn_by_pairs(x[b, 1, t], start + t, frequencies.tolist())
            close(out[b, 1, t].double(), turned)
    each_row = rope(x, *rope_table(positions.expand(B, T), frequencies))   # (B, T) positions
    close(each_row, out)


@some
@given(st.integers(1, 5), st.integers(0, 5), st.data())
def test_mask_cell_by_cell(T, past, data):
    pads = data.draw(st.none() | st.lists(st.integers(0, past + T - 1), min_size=1, max_size=3))
    mask = causal_mask(T, past, None if pads is None else torch.tensor(pads))
    if mask is None:
        assert pads is None and (T == 1 or past == 0)
        return
    mask = mask[None, None] if pads is None else mask
    assert mask.shape == (len(pads or [0]), 1, T, past + T) and mask.dtype == torch.bool
    for row, pad in enumerate(pads or [0]):
        for t in range(T):
            for s in range(past + T):
                seen = s <= past + t and (s >= pad or s == past + t)
                assert mask[row, 0, t, s] == seen


def read(layer, x, sizes, pad=None):
    n_kv_head = layer.k_proj.out_features // layer.d_head
    cache = KVCache(1, len(x), n_kv_head, x.shape[1] + 2, layer.d_head)
    outs = []
    for piece in x.split(sizes, 1):
        n, past = piece.shape[1], cache.length
        mask = None if pad is None else causal_mask(n, past, pad)   # None: the layer makes its own
        outs.append(layer(piece, rotation_of(layer, past, n, pad), mask, cache))
        cache.length += n
    return torch.cat(outs, 1)


@some
@given(layers(), st.integers(1, 3), st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_cache_is_no_cache(layer, B, sizes):
    x = torch.randn(B, sum(sizes), width(layer))
    close(read(layer, x, sizes), layer(x, rotation_of(layer, 0, sum(sizes))))


@some
@given(layers(), st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
def test_left_padding_is_each_text_alone(layer, sizes, data):
    T = sum(sizes)
    lengths = data.draw(st.lists(st.integers(1, T), min_size=1, max_size=4))
    x = torch.randn(len(lengths), T, width(layer))
    together = read(layer, x, sizes, torch.tensor([T - n for n in lengths]))
    assert torch.isfinite(together).all()
    for row, n in enumerate(lengths):
        alone = layer(x[row:row + 1, T - n:], rotation_of(layer, 0, n))
        close(together[row:row + 1, T - n:], alone)


@some
@given(layers(), st.integers(1, 6), st.integers(1, 6), st.data())
def test_cache_goes_back_and_branches(layer, kept, dropped, data):
    "Read on from an earlier point in other rows, as if nothing else had been read."
    x = torch.randn(3, kept + dropped, width(layer))
    new = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=5))
    cache = KVCache(1, 3, layer.k_proj.out_features // layer.d_head, kept + dropped, layer.d_head)
    layer(x, rotation_of(layer, 0, kept + dropped), cache=cache)
    cache.length += kept + dropped
    cache.truncate(kept)
    cache.reorder(torch.tensor(new))
    assert cache.length == kept and cache.max_length == kept + dropped
    tail = torch.randn(len(new), dropped, width(layer))
    out = layer(tail, rotation_of(layer, kept, dropped), cache=cache)
    whole = torch.cat([x[new, :kept], tail], 1)
    close(out, layer(whole, rotation_of(layer, 0, kept + dropped))[:, kept:])


def test_layers_of_a_cache_are_apart():
    cache, first, second = KVCache(2, 1, 1, 4, 2), torch.ones(1, 1, 3, 2), torch.zeros(1, 1, 3, 2)
    cache.append(0, first, first)
    cache.append(1, second, second)
    assert cache.length == 0                     # moved by the caller, after the last layer
    assert (cache.keys[0, :, :, :3] == 1).all() and (cache.values[1, :, :, :3] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_norm_in_each_precision(dtype):
    x, norm = torch.randn(4, 8, dtype=dtype), RMSNorm(8, 1e-5)
    torch.nn.init.normal_(norm.weight)
    variance = x.double().pow(2).mean(-1, keepdim=True)
    wanted = x.double() / (variance + 1e-5).sqrt() * norm.weight.double()
    assert norm(x).dtype == dtype
    close(norm(x).double(), wanted, 2e-2 if dtype == torch.bfloat16 else 1e-5)
    assert (norm(torch.zeros(1, 8)) == 0).all()


def test_gradients_reach_all_parameters_and_none_flows_through_the_cache():
    layer = Attention(12, 6, 3, qk_norm=True, bias=True, d_head=4)
    x = torch.randn(2, 5, 12, requires_grad=True)
    layer(x, rotation_of(layer, 0, 5)).pow(2).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())
    assert x.grad.abs().sum() > 0
    layer.q_proj.weight.grad = layer.k_proj.weight.grad = None
    layer(x, cache=KVCache(1, 2, 3, 5, 4)).sum().backward()
    assert layer.q_proj.weight.grad is not None and layer.k_proj.weight.grad is None


@pytest.mark.parametrize("arguments, message", [
    (dict(d_model=10, n_head=3), "d_model 10 is no multiple of n_head 3"),
    (dict(d_model=12, n_head=4, n_kv_head=3), "n_head 4 is no multiple of n_kv_head 3"),
    (dict(d_model=12, n_head=4, n_kv_head=0), "n_kv_head 0.*at least 1"),
    (dict(d_model=12, n_head=0), "n_head 0.*at least 1"),
    (dict(d_model=12, n_head=4, d_head=0), "d_head 0: each must be at least 1"),
])
def test_impossible_heads(arguments, message):
    with pytest.raises(ValueError, match=message): Attention(**arguments)


def test_impossible_inputs():
    with pytest.raises(ValueError, match=r"\(B, T, D\), not \(3, 8\)"):
        Attention(8, 2)(torch.randn(3, 8))
    with pytest.raises(ValueError, match="d_head 7 is odd"): rope_frequencies(7)
    with pytest.raises(ValueError, match="max_length is 0"): KVCache(1, 1, 1, 0, 4)


@pytest.mark.parametrize("T, K", [(1, 4), (5, 4), (3, 2), (3, 8)])
def test_angles_of_other_tokens_or_another_width_are_refused(T, K):
    "One angle for all tokens would fit torch's shapes, and be wrong."
    angles = rope_table(torch.arange(T), rope_frequencies(K))
    said = f"3 tokens with 2 pairs, but angles for {T} with {K // 2}"
    with pytest.raises(ValueError, match=said):
        Attention(8, 2)(torch.randn(1, 3, 8), angles)


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_angles_and_cache_of_another_precision(own, kept, qk_norm):
    layer = Attention(8, 2, 1, qk_norm=qk_norm).to(own).requires_grad_(False)
    x, cache = torch.randn(2, 5, 8, dtype=own), KVCache(1, 2, 1, 5, 4, dtype=kept)
    first = layer(x[:, :3], rotation_of(layer, 0, 3), cache=cache)
    cache.length += 3
    then = layer(x[:, 3:], rotation_of(layer, 3, 2), cache=cache)
    whole = layer(x, rotation_of(layer, 0, 5))
    rough = torch.bfloat16 in (own, kept)
    close(torch.cat([first, then], 1), whole, 3e-2 if rough else 1e-5)
    assert whole.dtype == own and cache.keys.dtype == kept


@pytest.mark.parametrize("B, T", [(1, 0), (0, 3), (0, 0)])
def test_no_tokens_or_no_texts(B, T):
    layer, cache = Attention(8, 4, 2, qk_norm=True), KVCache(1, B, 2, 4, 2)
    assert layer(torch.randn(B, T, 8), rotation_of(layer, 0, T)).shape == (B, T, 8)
    cache.length = 1
    assert layer(torch.randn(B, T, 8), rotation_of(layer, 1, T), cache=cache).shape == (B, T, 8)


def test_views_are_read_as_their_copies():
    layer = Attention(8, 4, 2).requires_grad_(False)
    for x in (torch.randn(8, 5, 2).transpose(0, 2), torch.randn(1, 5, 8).expand(2, 5, 8),
              torch.randn(2, 10, 8)[:, ::2]):
        assert not x.is_contiguous()
        close(layer(x, rotation_of(layer, 0, 5)), layer(x.contiguous(), rotation_of(layer, 0, 5)))


def test_gradients_after_a_cache_are_those_of_the_new_tokens():
    "What is kept is a constant: a detached past gives the same gradients."
    layer = Attention(8, 2)
    past, new = torch.randn(1, 3, 8), torch.randn(1, 2, 8, requires_grad=True)
    cache = KVCache(1, 1, 2, 5, 4)
    with torch.no_grad(): layer(past, rotation_of(layer, 0, 3), cache=cache)
    cache.length += 3
    query_only = torch.autograd.grad(
        layer(new, rotation_of(layer, 3, 2), cache=cache).pow(2).sum(), layer.q_proj.weight)[0]
    whole = layer(torch.cat([past, new], 1), rotation_of(layer, 0, 5))[:, 3:]
    through_all = torch.autograd.grad(whole.pow(2).sum(), layer.q_proj.weight)[0]
    close(query_only, through_all)


def test_impossible_use_of_a_cache():
    layer, cache = Attention(8, 2), KVCache(1, 2, 2, 4, 4)
    layer(torch.randn(2, 3, 8), cache=cache)
    cache.length += 3
    with pytest.raises(ValueError, match="holds 3 of at most 4 tokens, 2 more do not fit"):
        layer(torch.randn(2, 2, 8), cache=cache)
    with pytest.raises(ValueError, match="made for 2 rows, the batch has 1"):
        layer(torch.randn(1, 1, 8), cache=cache)
    for other in (KVCache(1, 2, 1, 4, 4), KVCache(1, 2, 2, 4, 1)):   # torch would repeat the 1
        with pytest.raises(ValueError, match="the cache was made for . heads of keys of width ., "
                                             "the layer has 2 of width 4"):
            layer(torch.randn(2, 1, 8), cache=other)
    with pytest.raises(ValueError, match=r"keys \(2, 2, 1, 4\), values \(2, 2, 2, 4\): want one"):
        cache.append(0, torch.zeros(2, 2, 1, 4), torch.zeros(2, 2, 2, 4))
    for length in (-1, 4):
        with pytest.raises(ValueError, match=f"length {length} is outside 0 to 3"):
            cache.truncate(length)
    assert cache.length == 3


Book = Annotated[int, Field(ge=0)]


@attention.settings
class Shelf:
    "A record to try the checks on."
    width: Annotated[int, Field(ge=1)]
    edges: tuple[float, float] = (0.0, 1.0)
    books: int | Annotated[tuple[Book, ...], Field(min_length=1)] | None = None
    painted: bool = False


SAID = [
    ((), {}, "width is missing: give it"),
    ((), dict(edges=(1.0, 2.0)), "width is missing: give it"),
    (("8",), {}, "width is '8': it should be a valid integer"),
    ((8, 3), {}, "edges is 3: it should be a valid tuple"),
    ((8,), dict(width=9), "width is given twice: leave one out"),
    ((8, (0.0, 1.0), 1, True, "oak"), {},
     "'oak' is one value too many: the settings are width, edges, books, painted"),
    ((), dict(widht=8), "widht is no setting here: there are width, edges, books, painted"),
    ((8,), dict(edges=(1.0,)), "edges is (1.0,): it should have more items"),
    ((8,), dict(edges=(1.0, 2.0, 3.0)),
     "edges is (1.0, 2.0, 3.0): it should have at most 2 items, not 3"),
    ((8,), dict(edges=(1.0, "2")), "edges is '2': it should be a valid number"),
    ((8,), dict(books=(1, -1)), "books is -1: it should be greater than or equal to 0"),
    ((8,), dict(books=(True,)), "books is True: it should be a valid integer"),
    ((8,), dict(books=()),
     "books is (): it should be a valid integer or it should have at least 1 item, not 0"),
    ((True,), {}, "width is True: it should be a valid integer"),
    ((np.True_,), {}, "width is np.True_: it should be a valid integer"),
    ((np.int64(0),), {}, "width is 0: it should be greater than or equal to 1"),
    ((8,), dict(painted=1), "painted is 1: it should be a valid boolean"),
]


@pytest.mark.parametrize("args, kwargs, message", SAID, ids=str)
def test_a_record_says_which_value_is_wrong_and_what_it_should_be(args, kwargs, message):
    with pytest.raises(ValueError) as error: Shelf(*args, **kwargs)
    assert str(error.value) == message


def test_the_check_of_records_is_imported_with_the_first_record():
    code = ("import sys; import gpt_nb.model; assert 'pydantic' not in sys.modules; "
            "gpt_nb.model.GPTConfig('qwen3', 65, 64, 2, 2, 32); assert 'pydantic' in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_record_takes_the_whole_numbers_of_numpy():
    for eight in (np.int64(8), np.uint8(8), np.array([8])[0]):
        for shelf in (Shelf(eight), Shelf(width=eight)):
            assert shelf == Shelf(8) and type(shelf.width) is int
    shelf = Shelf(8, books=(np.int64(1), 2))
    assert shelf == Shelf(8, books=(1, 2)) and [type(i) for i in shelf.books] == [int, int]
    with pytest.raises(ValueError, match="width is np.float64"): Shelf(np.float64(8))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("T", [1, 6, 256, 257])
def test_where_products_are_in_16_bits_attention_on_a_cpu_is_close_to_that_in_32(grouped, T):
    torch.manual_seed(0)
    made = [torch.randn(2, 4, T, 8).bfloat16() for _ in range(3)]
    if grouped: made[1:] = [x[:, :2].contiguous() for x in made[1:]]
    in16, in32 = ([x.clone().to(kind).requires_grad_() for x in made]
                  for kind in (torch.bfloat16, torch.float32))
    with torch.autocast("cpu", torch.bfloat16):
        out = attention.over_heads(*in16, None, grouped)
        assert torch.is_autocast_enabled("cpu")
    whole = attention.over_heads(*in32, None, grouped)
    assert out.dtype == (torch.bfloat16 if T <= 256 else torch.float32)
    toward = torch.randn(whole.shape)
    for result in (out, whole): (result * toward).sum().backward()
    close = dict(rtol=0, atol=0.1, check_dtype=False)
    torch.testing.assert_close(out, whole, **close)
    for x, y in zip(in16, in32): torch.testing.assert_close(x.grad, y.grad, **close)


def test_in_16_bits_a_cache_and_a_mask_keep_the_attention_of_32(monkeypatch):
    def never(*given): raise AssertionError("written out")
    monkeypatch.setattr(attention, "in_products", never)
    query, key, value = (torch.randn(2, 4, T, 8).bfloat16() for T in (2, 6, 6))
    mask = causal_mask(6, pad=torch.tensor([0, 3]))
    with torch.autocast("cpu", torch.bfloat16):
        assert attention.over_heads(query, key, value, None, False).dtype == torch.float32
        assert attention.over_heads(key, key, value, mask, False).dtype == torch.float32
        with pytest.raises(AssertionError): attention.over_heads(key, key, value, None, False)
