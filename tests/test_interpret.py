"""`trace` against `transformers` and against the model itself: what it reads is what is there, what
it puts in its place is what goes on, and nothing of it is left behind. Nothing is downloaded."""
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from gpt_nb.interpret import activation_names, trace
from gpt_nb.model import GPT, GPTConfig

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SIZES = dict(vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=40)
THEIRS = {
    "gpt2": lambda: transformers.GPT2Config(vocab_size=60, n_positions=40, n_embd=32, n_layer=3,
                                            n_head=4, bos_token_id=0, eos_token_id=0),
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=12),
}
families = pytest.mark.parametrize("family", THEIRS)


def assert_close(a, b): torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def same(x): return x


def their_model(family):
    "A tiny random model of theirs, its weights large enough that nothing is near uniform."
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(THEIRS[family]()).eval()
    for name, w in model.named_parameters():
        with torch.no_grad():
            if w.dim() > 1: w.normal_(0, 0.2)
            else: w.add_(torch.randn_like(w), alpha=0.1)
    model.set_attn_implementation("eager")
    return model


@pytest.fixture
def pair(family, tmp_path):
    theirs = their_model(family)
    theirs.save_pretrained(tmp_path)
    return GPT.from_pretrained(tmp_path).eval(), theirs


@families
@torch.no_grad()
def test_a_trace_is_what_transformers_has(pair):
    "Hidden states and attentions within 1e-5, and logits bit for bit those without a trace."
    ours, theirs = pair
    ids = torch.randint(60, (2, 24))
    want = theirs(ids, output_hidden_states=True, output_attentions=True)
    with trace(ours) as acts: logits = ours(ids)
    assert torch.equal(logits, ours(ids)) and list(acts) == activation_names(ours)
    states = ["embed", "layers.0.resid", "layers.1.resid", "norm"]
    for name, other in zip(states, want.hidden_states, strict=True): assert_close(acts[name], other)
    for i, other in enumerate(want.attentions):
        assert_close(acts[f"layers.{i}.attn.pattern"], other)
        assert_close(acts[f"layers.{i}.attn.pattern.3"], other[:, 3])
    assert_close(acts["logits"], want.logits)


@families
@torch.no_grad()
def test_what_is_put_in_its_own_place_changes_nothing(pair):
    ours, _ = pair
    ids, pad = torch.randint(60, (2, 20)), torch.tensor([0, 6])
    for how in ({}, {"pad": pad}):
        logits = ours(ids, **how)
        for name in activation_names(ours):
            heads = [""] + [".1"] * (".attn." in name and not name.endswith("out"))
            for head in heads:
                with trace(ours, replace={name + head: same}) as acts: again = ours(ids, **how)
                assert not acts
                if name.endswith("pattern"): assert_close(again, logits)
                else: assert torch.equal(again, logits), name
