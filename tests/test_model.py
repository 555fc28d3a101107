"The model against `transformers`: tiny random models of each family, both ways, with configs drawn by hypothesis. Nothing is downloaded."
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_nb.model import GPT, GPTConfig, to_gpt2

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
AutoModel = transformers.AutoModelForCausalLM

some = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def their_config(draw, family):
    n_kv_head, groups, d_head = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([2, 4, 6, 8, 16]))
    n_head = n_kv_head * groups
    common = dict(vocab_size=draw(st.integers(2, 97)), tie_word_embeddings=draw(st.booleans()), initializer_range=0.2)
    n_layer, context, eps = draw(st.integers(1, 3)), draw(st.integers(24, 40)), draw(st.sampled_from([1e-3, 1e-5, 1e-6]))
    d_ff, width = draw(st.integers(1, 50)), draw(st.integers(1, 12))
    if family == "gpt2":
        return transformers.GPT2Config(n_embd=n_head * width, n_head=n_head, n_layer=n_layer, n_positions=context, n_inner=draw(st.sampled_from([None, d_ff])),
                                       layer_norm_epsilon=eps, **common)
    fields = dict(hidden_size=n_head * width, num_attention_heads=n_head, num_key_value_heads=n_kv_head, head_dim=d_head, intermediate_size=d_ff,
                  num_hidden_layers=n_layer, max_position_embeddings=context, rms_norm_eps=eps, attention_bias=draw(st.booleans()),
                  rope_parameters={"rope_type": "default", "rope_theta": draw(st.sampled_from([100.0, 10000.0, 1e6]))}, **common)
    if family == "llama": return transformers.LlamaConfig(mlp_bias=draw(st.booleans()), **fields)
    return transformers.Qwen3Config(**(fields | dict(hidden_size=draw(st.integers(1, 40)))))


def their_model(config, seed=0):
    "A random model whose biases and norms are random too."
    torch.manual_seed(seed)
    model = AutoModel.from_config(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 1: p.add_(torch.randn_like(p) * 0.2)
    return model


def assert_close(ours, theirs, share=1e-5):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= share * theirs.abs().max() + 1e-30


def hub_state_of(state, family): return to_gpt2(state) if family == "gpt2" else state


families = pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])


@families
@some
@given(st.data())
def test_parity_both_ways(family, tmp_path_factory, data):
    theirs = their_model(data.draw(their_config(family)))
    folder = tmp_path_factory.mktemp("parity")
    theirs.save_pretrained(folder / "theirs")
    ours = GPT.from_pretrained(folder / "theirs")
    ids = torch.randint(ours.config.vocab_size, (2, 24))
    want = theirs(ids, labels=ids)
    assert_close(ours(ids), want.logits)

    loss = ours.loss(ids[:, :-1], ids[:, 1:])
    assert_close(loss, want.loss)
    loss.backward(), want.loss.backward()
    mine = hub_state_of({name: p.grad for name, p in ours.named_parameters()}, family)
    largest = max(p.grad.abs().max() for p in theirs.parameters())
    for name, p in theirs.named_parameters(): assert (mine[name] - p.grad).abs().max() <= 1e-5 * largest, name

    ours.save_pretrained(folder / "ours")
    back = AutoModel.from_pretrained(folder / "ours").eval()
    assert_close(back(ids).logits, want.logits)
    again = json.loads((folder / "ours/config.json").read_text())
    assert again == {k: v for k, v in json.loads(back.config.to_json_string(use_diff=False)).items() if k in again}
