"The block against its parts, one after the other; feed-forwards against their formulas."
import math

import pytest
import torch
from torch import nn

from gpt_nb.attention import Attention, KVCache, RMSNorm, rope_frequencies, rope_table
from gpt_nb.block import MLP, Block, SwiGLU


def make_block(D=8, bias=False):
    torch.manual_seed(0)
    parts = Attention(D, 2, bias=bias), SwiGLU(D, 12), RMSNorm(D), RMSNorm(D)
    return Block(*parts).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
def test_feed_forwards_are_their_formulas(bias):
    x = torch.randn(2, 3, 6)
    mlp, gated = MLP(6, 10, bias), SwiGLU(6, 10, bias)
    z = mlp.up_proj(x)
    bent = 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    assert torch.allclose(mlp(x), mlp.down_proj(bent), atol=1e-6)
    gate = gated.gate_proj(x)
    passed = gate / (1 + torch.exp(-gate)) * gated.up_proj(x)
    assert torch.allclose(gated(x), gated.down_proj(passed), atol=1e-6)
    for part in (mlp, gated): assert all((p.bias is not None) == bias for p in part.children())


def test_each_part_adds_to_the_stream_behind_its_norm():
    block, x = make_block(), torch.randn(2, 5, 8)
    rotation, before = rope_table(torch.arange(5), rope_frequencies(4)), x.clone()
    out = block(x, rotation)
    middle = x + block.self_attn(block.input_layernorm(x), rotation)
    assert torch.allclose(out, middle + block.mlp(block.post_attention_layernorm(middle)))
    assert torch.equal(x, before)                 # the input is not written over


def test_mask_cache_and_layer_reach_the_attention():
    block, x = make_block(), torch.randn(1, 5, 8)
    angles = [rope_table(torch.arange(*ends), rope_frequencies(4)) for ends in ((5,), (3,), (3, 5))]
    whole, cache = block(x, angles[0]), KVCache(2, 1, 2, 5, 4)
    first = block(x[:, :3], angles[1], cache=cache, layer=1)
    cache.length += 3
    then = block(x[:, 3:], angles[2], cache=cache, layer=1)
    assert torch.allclose(torch.cat([first, then], 1), whole, atol=1e-5)
    alone = block(x, angles[0], torch.eye(5, dtype=torch.bool))
    assert not torch.allclose(alone[:, 1:], whole[:, 1:], atol=1e-3)
    assert torch.allclose(alone[:, 0], whole[:, 0], atol=1e-6)


@pytest.mark.parametrize("B, T", [(1, 0), (0, 3), (2, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_and_precision_stay(B, T, dtype):
    block = make_block().to(dtype)
    out = block(torch.randn(B, T, 8, dtype=dtype), rope_table(torch.arange(T), rope_frequencies(4)))
    assert out.shape == (B, T, 8) and out.dtype == dtype


def test_gradients_reach_every_part():
    block = make_block(bias=True).requires_grad_(True)
    block(torch.randn(2, 4, 8)).pow(2).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in block.parameters())
    assert sum(p.grad.abs().sum() > 0 for p in block.parameters()) >= 11
    assert len([m for m in block.modules() if isinstance(m, nn.Linear)]) == 7
