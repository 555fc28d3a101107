"""The model against `transformers`: tiny random models of each family, both ways, with configs
drawn by hypothesis. Nothing is downloaded."""
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import dataclasses
import json
import math
import shlex
import shutil
import subprocess
import sys
from threading import Thread

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gpt_nb.attention import RopeScaling
from gpt_nb.checkpoint import FAMILIES, config_to_hub, hub_to_config, load_tokenizer, to_stored
from gpt_nb.model import (
    GPT, GPTConfig, activations, count_params, flops_per_token, hidden_states, memory, pick_device)
from gpt_nb.tokenizer import CharTokenizer, write_beside

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
AutoModel = transformers.AutoModelForCausalLM

LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)
steady = dict(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
many = settings(max_examples=50, **steady)
some = settings(max_examples=10, **steady)


def without(fields, *names): return {k: v for k, v in fields.items() if k not in names}


@st.composite
def their_rope(draw):
    "Plain rotary positions, or stretched ones."
    theta = draw(st.sampled_from([100.0, 10000.0, 1e6]))
    factor = draw(st.sampled_from([1.0, 2.0, 5.3, 32.0]))
    original = draw(st.integers(4, 200))
    high = draw(st.sampled_from([1.5, 4.0, 20.0]))
    llama3 = dict(rope_type="llama3", factor=factor, low_freq_factor=1.0, high_freq_factor=high,
                  original_max_position_embeddings=original)
    yarn = dict(rope_type="yarn", factor=factor, original_max_position_embeddings=original)
    by_hand = dict(rope_type="yarn", factor=factor, beta_fast=8.0, beta_slow=0.5,
                   attention_factor=1.3)
    rope = draw(st.sampled_from([dict(rope_type="default"), llama3, yarn, by_hand]))
    return rope | {"rope_theta": theta}


@st.composite
def their_config(draw, family):
    n_kv_head, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    d_head = draw(st.sampled_from([2, 4, 6, 8, 16]))
    n_head = n_kv_head * groups
    common = dict(vocab_size=draw(st.integers(3, 97)), tie_word_embeddings=draw(st.booleans()),
                  initializer_range=0.2)
    n_layer, context = draw(st.integers(1, 3)), draw(st.integers(24, 40))
    eps = draw(st.sampled_from([1e-3, 1e-5, 1e-6]))
    d_ff, width = draw(st.integers(1, 50)), draw(st.integers(1, 12))
    if family == "gpt2":
        n_inner = draw(st.sampled_from([None, d_ff]))
        return transformers.GPT2Config(
            n_embd=n_head * width, n_head=n_head, n_layer=n_layer, n_positions=context,
            n_inner=n_inner, layer_norm_epsilon=eps, **common)
    fields = dict(
        hidden_size=n_head * width, num_attention_heads=n_head, num_key_value_heads=n_kv_head,
        head_dim=d_head, intermediate_size=d_ff, num_hidden_layers=n_layer,
        max_position_embeddings=context, rms_norm_eps=eps, rope_parameters=draw(their_rope()),
        **common)
    if family == "qwen2":
        sizes = without(fields, "head_dim") | dict(hidden_size=n_head * d_head)
        return transformers.Qwen2Config(**sizes)
    fields["attention_bias"] = draw(st.booleans())
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


def hub_state_of(state, family): return to_stored(state, FAMILIES[family])


families = pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "qwen3"])


@families
@many
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
    for name, p in theirs.named_parameters():
        assert (mine[name] - p.grad).abs().max() <= 1e-5 * largest, name

    ours.save_pretrained(folder / "ours")
    back = AutoModel.from_pretrained(folder / "ours").eval()
    assert_close(back(ids).logits, want.logits)
    again = json.loads((folder / "ours/config.json").read_text())
    written = json.loads(back.config.to_json_string(use_diff=False))
    assert again == {k: v for k, v in written.items() if k in again}


@families
@some
@given(st.data())
def test_cache_equals_no_cache(family, tmp_path_factory, data):
    "Prefill, one token, many tokens, and rows of different lengths padded on the left."
    folder = tmp_path_factory.mktemp("cache")
    their_model(data.draw(their_config(family))).save_pretrained(folder)
    model = GPT.from_pretrained(folder)
    ids = torch.randint(model.config.vocab_size, (3, 20))
    pad = torch.tensor(data.draw(st.sampled_from([[0, 0, 0], [0, 1, 9], [4, 0, 19]])))
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, 19), max_size=4))), 20]
    with torch.no_grad():
        plain, padded = model.new_cache(3), model.new_cache(3, max_length=20)
        parts = torch.cat([model(ids[:, a:b], plain) for a, b in zip(cuts, cuts[1:])], 1)
        rows = torch.cat([model(ids[:, a:b], padded, pad) for a, b in zip(cuts, cuts[1:])], 1)
        assert_close(parts, model(ids))
        assert rows.isfinite().all() and plain.length == padded.length == 20
        for row, n in enumerate(pad): assert_close(rows[row, n:], model(ids[row:row + 1, n:])[0])
        assert_close(model(ids, pad=pad)[2, pad[2]:], rows[2, pad[2]:])


@families
@some
@given(st.data())
def test_activations_are_those_of_transformers(family, tmp_path_factory, data):
    "Every hidden state and every pattern; with padding on the left, of each row alone."
    theirs = their_model(data.draw(their_config(family)))
    theirs.set_attn_implementation("eager")
    folder = tmp_path_factory.mktemp("activations")
    theirs.save_pretrained(folder)
    ours = GPT.from_pretrained(folder)
    ids = torch.randint(ours.config.vocab_size, (2, data.draw(st.sampled_from([1, 2, 24]))))
    want = theirs(ids, output_hidden_states=True, output_attentions=True)
    inside = activations(ours, ids)
    assert [len(part) for part in inside] == [ours.config.n_layer + 1, ours.config.n_layer]
    for mine, other in zip(inside.hidden_states, want.hidden_states, strict=True):
        assert_close(mine, other)
    for mine, other in zip(inside.attentions, want.attentions, strict=True):
        assert_close(mine, other)
        assert mine.triu(1).abs().max() == 0 and not mine.requires_grad
    filled = torch.cat((torch.zeros(2, 5, dtype=torch.long), ids), 1)
    if filled.shape[1] > ours.config.context: return
    padded = activations(ours, filled, torch.tensor([5, 0]))
    for mine, other in zip(padded.hidden_states, inside.hidden_states):
        assert_close(mine[0, 5:], other[0])
    for mine, other in zip(padded.attentions, inside.attentions):
        assert_close(mine[0, :, 5:, 5:], other[0])
        assert mine[0, :, 5:, :5].abs().max() == 0


def test_nothing_listens_afterwards():
    model = GPT(GPTConfig("qwen3", 60, 32, 2, 2, 16))
    ids = torch.randint(60, (1, 5))
    activations(model, ids)
    with pytest.raises(ValueError, match="context"): activations(model, torch.zeros(1, 40).long())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert model(ids).requires_grad
    half = activations(model.bfloat16(), ids)
    assert half.attentions[0].dtype == half.hidden_states[2].dtype == torch.bfloat16


def test_each_thread_looks_at_its_own():
    "What others do with a model meanwhile is not listened to."
    model = GPT(GPTConfig("qwen3", 60, 64, 3, 2, 16))
    texts = [torch.randint(60, (1, 40)) for _ in range(3)]
    alone, odd = [activations(model, ids) for ids in texts], []

    def look(ids, want):
        for _ in range(15):
            found = activations(model, ids)
            for part, wanted in zip(found, want):
                if len(part) != len(wanted) or not all(map(torch.equal, part, wanted)):
                    odd.append(len(part))

    threads = [Thread(target=look, args=pair) for pair in zip(texts, alone)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert odd == []


@pytest.mark.parametrize("what", ["tales-en", None, torch.nn.Linear(2, 2)])
def test_what_has_no_hidden_states(what):
    for look in (activations, hidden_states):
        with pytest.raises(TypeError, match=f"this is a {type(what).__name__}: give a GPT"):
            look(what, torch.ones(1, 1).long())


def tiny_config(family):
    "A small model of theirs that never writes an end token."
    sizes = dict(vocab_size=60, initializer_range=0.2)
    no_ends = dict(bos_token_id=None, eos_token_id=None)
    wide = dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                intermediate_size=40, num_hidden_layers=2, max_position_embeddings=256)
    if family == "gpt2":
        return transformers.GPT2Config(n_embd=32, n_head=4, n_layer=2, n_positions=256, **no_ends,
                                       **sizes)
    if family == "llama":
        return transformers.LlamaConfig(**no_ends, **wide, **sizes, rope_parameters=LLAMA3)
    if family == "qwen2":
        return transformers.Qwen2Config(**without(wide, "head_dim"), **sizes, rope_parameters=YARN)
    return transformers.Qwen3Config(**wide, **sizes)


@families
def test_same_greedy_continuation(family, tmp_path):
    "200 tokens, ours with the cache, theirs with `generate`; a batch of different lengths too."
    theirs = their_model(tiny_config(family))
    theirs.save_pretrained(tmp_path)
    ours = GPT.from_pretrained(tmp_path)
    ids, pad = torch.randint(60, (2, 9)), torch.tensor([0, 4])
    mask = (torch.arange(9) >= pad[:, None]).long()
    want = theirs.generate(ids, attention_mask=mask, max_new_tokens=200, do_sample=False,
                           pad_token_id=0)
    with torch.no_grad():
        cache, new = ours.new_cache(2), ids
        for _ in range(200):
            new = ours(new, cache, pad)[:, -1:].argmax(-1)
            ids = torch.cat((ids, new), 1)
    assert torch.equal(ids, want)


@families
@some
@given(st.data())
def test_bfloat16_within_its_rounding(family, tmp_path_factory, data):
    "No further from float32 than theirs is, up to a factor of two."
    exact = their_model(data.draw(their_config(family)))
    folder = tmp_path_factory.mktemp("bfloat16")
    exact.to(torch.bfloat16).save_pretrained(folder)
    rounded = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ours = GPT.from_pretrained(folder, dtype=torch.bfloat16).eval()
    theirs = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
    ids = torch.randint(ours.config.vocab_size, (2, 24))
    want = rounded(ids).logits
    error = lambda logits: (logits.float() - want).abs().max() / want.abs().max()
    assert ours(ids).dtype == torch.bfloat16
    assert error(ours(ids)) <= 2 * error(theirs(ids).logits) + 2**-7


@families
def test_positions_far_out(family, tmp_path):
    "After 3,000 tokens the angles are large; a wrong frequency would show."
    if family == "gpt2": pytest.skip("GPT-2 has no angles")
    sizes = dict(vocab_size=60, initializer_range=0.2, max_position_embeddings=4096, hidden_size=32,
                 num_attention_heads=4, num_key_value_heads=2, intermediate_size=40,
                 num_hidden_layers=1)
    classes = dict(llama=transformers.LlamaConfig, qwen2=transformers.Qwen2Config,
                   qwen3=transformers.Qwen3Config)
    for rope in (LLAMA3, YARN | {"original_max_position_embeddings": 1024}):
        their_model(classes[family](**sizes, rope_parameters=rope)).save_pretrained(tmp_path)
        ids = torch.randint(60, (1, 3000))
        ours, theirs = GPT.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path).eval()
        with torch.no_grad(): assert_close(ours(ids)[:, -5:], theirs(ids).logits[:, -5:], 1e-4)


def test_stretched_positions_by_either_name_and_back():
    plain = config_to_hub(GPTConfig("qwen3", **TINY))
    stretch = {"factor": 4.0, "original_max_position_embeddings": 8}
    old = without(plain, "rope_parameters")
    old |= {"rope_theta": 1e6, "rope_scaling": {"type": "yarn"} | stretch}
    new = plain | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6} | stretch}
    config = hub_to_config(old)
    assert config == hub_to_config(new) == hub_to_config(config_to_hub(config))
    assert config.rope_scaling.magnitude == pytest.approx(0.1 * math.log(4) + 1)
    assert config.rope_scaling.original == 8
    absent = plain | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}}
    assert hub_to_config(absent).rope_scaling.original == TINY["context"]


def test_bfloat16_and_dtypes(tmp_path):
    config = transformers.Qwen3Config(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=40, num_hidden_layers=2, vocab_size=60)
    theirs = their_model(config).bfloat16()
    theirs.save_pretrained(tmp_path / "a")
    ours = GPT.from_pretrained(tmp_path / "a")
    ids = torch.randint(60, (2, 12))
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
    assert_close(ours(ids).float(), theirs(ids).logits.float(), 0.03)
    ours.save_pretrained(tmp_path / "b")
    assert json.loads((tmp_path / "b/config.json").read_text())["dtype"] == "bfloat16"
    wide = GPT.from_pretrained(tmp_path / "b", dtype=torch.float32)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}


# --- files as they are found in the wild

TINY = dict(vocab_size=50, context=32, n_layer=2, n_head=2, d_model=16)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = GPT(GPTConfig("qwen3", **TINY, eos_token_id=3))
    model.save_pretrained(tmp_path / "ok")
    return model, tmp_path / "ok"


def set_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_gpt2_of_the_hub(tmp_path):
    "No `transformer.` before the names, and the mask buffers stored with the weights."
    torch.manual_seed(0)
    model = GPT(GPTConfig("gpt2", **TINY))
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    state = {k.removeprefix("transformer."): v for k, v in stored.items()}
    for i in range(2):
        state[f"h.{i}.attn.bias"] = torch.ones(1, 1, 32, 32).tril()
        state[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(state, tmp_path / "model.safetensors")
    how_to_write = {"text-generation": {"do_sample": True}}
    set_config(tmp_path, n_ctx=32, task_specific_params=how_to_write, attn_pdrop=0.1)
    ids = torch.randint(50, (2, 9))
    assert torch.equal(GPT.from_pretrained(tmp_path)(ids), model(ids))


def test_old_rope_fields_and_a_stored_tied_head(saved):
    model, folder = saved
    fields = json.loads((folder / "config.json").read_text())
    rope = fields.pop("rope_parameters")
    old = fields | {"rope_theta": 777.0, "rope_scaling": None}
    (folder / "config.json").write_text(json.dumps(old))
    assert rope["rope_theta"] == 10000.0 and GPT.from_pretrained(folder).config.rope_theta == 777.0
    path = folder / "model.safetensors"
    state = load_file(path)
    embedding = state["model.embed_tokens.weight"]
    save_file(state | {"lm_head.weight": embedding.clone()}, path)
    again = GPT.from_pretrained(folder)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    save_file(state | {"lm_head.weight": embedding + 1}, path)
    with pytest.raises(ValueError, match="ties the head"): GPT.from_pretrained(folder)
    for head in (torch.zeros(51, 16), torch.zeros(50, 16, dtype=torch.bfloat16)):
        save_file(state | {"lm_head.weight": head}, path)
        says = "in several types" if head.dtype == torch.bfloat16 else "ties the head"
        with pytest.raises(ValueError, match=says): GPT.from_pretrained(folder)
        with pytest.raises(ValueError, match="ties the head"):
            GPT.from_pretrained(folder, dtype=torch.float32)


def test_shards(saved):
    model, folder = saved
    state = load_file(folder / "model.safetensors")
    names = sorted(state)
    index = {k: f"model-{i}.safetensors" for i in (0, 1) for k in names[i::2]}
    for file in set(index.values()):
        save_file({k: w for k, w in state.items() if index[k] == file}, folder / file)
    (folder / "model.safetensors").unlink()

    def write(weight_map):
        text = json.dumps({"weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(text)

    write(index)
    ids = torch.randint(50, (1, 9))
    assert torch.equal(GPT.from_pretrained(folder)(ids), model(ids))
    outside = [{names[0]: "../model-0.safetensors"}, {names[0]: "/etc/model-0.safetensors"}]
    for bad in (*outside, {names[0]: 5}, {}, [1]):
        write(bad)
        with pytest.raises(ValueError, match="index.json"): GPT.from_pretrained(folder)
    write(index)
    (folder / "model-1.safetensors").unlink()
    says = ("model-1.safetensors.*model.safetensors.index.json asks for: "
            "download the folder again")
    with pytest.raises(FileNotFoundError, match=says): GPT.from_pretrained(folder)


# What spoils a folder: each a function of the folder, or makes one.

def write_bytes(data): return lambda folder: (folder / "model.safetensors").write_bytes(data)


def write_config(text): return lambda folder: (folder / "config.json").write_text(text)


def change_config(**fields): return lambda folder: set_config(folder, **fields)


def remove(name): return lambda folder: (folder / name).unlink()


def cut_off(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def pickle_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def make_integers(folder):
    path = folder / "model.safetensors"
    save_file({k: v.int() for k, v in load_file(path).items()}, path)


damage = {
    "cut off": (cut_off, "cut off"),
    "empty": (write_bytes(b""), "cut off"),
    "noise": (write_bytes(bytes(range(256))), "damaged"),
    "no weights": (remove("model.safetensors"), "no model.safetensors"),
    "pickle only": (pickle_only, "pickled"),
    "no config": (remove("config.json"), "no config.json"),
    "no JSON": (write_config("{"), "no JSON"),
    "a list": (write_config("[]"), "not an object"),
    "a layer too many": (change_config(num_hidden_layers=3), "missing model.layers.2"),
    "a layer too few": (change_config(num_hidden_layers=1), "unexpected model.layers.1"),
    "another width": (change_config(hidden_size=20), r"\(50, 16\) and should be \(50, 20\)"),
    "untied": (change_config(tie_word_embeddings=False), "missing lm_head.weight"),
    "integers": (make_integers, "not floats"),
}


@pytest.mark.parametrize("what", damage)
def test_damaged_folders(saved, what):
    spoil, says = damage[what]
    spoil(saved[1])
    with pytest.raises((ValueError, FileNotFoundError), match=says) as e:
        GPT.from_pretrained(saved[1])
    assert "\n" not in str(e.value) and len(str(e.value)) < 600


BEYOND = (10**400, 1e300, 1e-300)   # nothing that a model computes with


def with_rope(**fields): return dict(rope_parameters=fields)


def with_yarn(**fields): return with_rope(rope_type="yarn", **fields)


unsupported = [
    dict(model_type="bert"),
    dict(model_type=None),
    dict(model_type=["qwen3"]),
    dict(hidden_act="gelu"),
    dict(use_sliding_window=True, sliding_window=5, layer_types=None, max_window_layers=1),
    dict(layer_types=["full_attention", "sliding_attention"]),
    dict(layer_types=5),
    dict(something_new=1),
    dict(something_new=False),
    dict(rope_scaling={"type": "dynamic", "factor": 4.0}),
    with_rope(rope_type="llama3", factor=8.0, rope_theta=1e4),
    with_yarn(),
    with_yarn(factor=0.5),
    with_yarn(factor="4"),
    with_yarn(factor=4.0, mscale=1.0),
    with_yarn(factor=4.0, truncate=False),
    with_rope(rope_type=["yarn"]),
    with_rope(factor=4.0),
    with_rope(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5),
    dict(rope_parameters="x"),
    dict(partial_rotary_factor=0.5),
    dict(quantization_config={"bits": 4}),
    dict(architectures=["Qwen3ForSequenceClassification"]),
    dict(attn_logit_softcapping=50.0),
    dict(mlp_bias=True),
    dict(hidden_size=-1),
    dict(hidden_size="16"),
    dict(num_hidden_layers=10**9),
    dict(vocab_size=10**15),
    dict(vocab_size=True),
    dict(num_attention_heads=0),
    dict(num_key_value_heads=3),
    dict(rms_norm_eps=0),
    dict(rms_norm_eps="a"),
    dict(eos_token_id="x"),
    dict(tie_word_embeddings=None),
    dict(hidden_size=2**24, num_attention_heads=2**24, num_key_value_heads=2**24, head_dim=2**24),
    with_yarn(factor=4.0, rope_theta=1),
    *(dict(bos_token_id=bad) for bad in ([], [-1], [1, "a"], -1, 50, 10**6, True, 1.0)),
    *(dict(eos_token_id=bad) for bad in ([], [-1], [1, "a"], -1, 50, 10**6, True, 1.0)),
    dict(bos_token_id=[1, 2]),
    dict(bos_token_id=[1]),
    *(dict(rms_norm_eps=bad) for bad in (*BEYOND, math.inf)),
    with_rope(rope_theta=0.5),
    *(with_rope(**LLAMA3 | {name: bad}) for name in without(LLAMA3, "rope_type") for bad in BEYOND),
    *(with_rope(**YARN | {name: bad}) for name in without(YARN, "rope_type") for bad in BEYOND),
    *(with_rope(**YARN | {name: bad})
      for name in ("beta_fast", "beta_slow", "attention_factor") for bad in BEYOND),
]


@pytest.mark.parametrize("fields", unsupported, ids=lambda fields: str(fields)[:100])
def test_what_is_not_supported_is_an_error(fields):
    config = config_to_hub(GPTConfig("qwen3", **TINY)) | fields
    with pytest.raises((ValueError, TypeError)) as error: hub_to_config(config)
    assert len(str(error.value)) < 300
    if fields.get("layer_types"):
        assert error.type is ValueError and "layer_types" in str(error.value)


@pytest.mark.parametrize("fields", [
    dict(scale_attn_by_inverse_layer_idx=True),
    dict(reorder_and_upcast_attn=True),
    dict(scale_attn_weights=False),
    dict(add_cross_attention=True),
    dict(activation_function="relu"),
    dict(rope_theta=1.0),
], ids=str)
def test_what_is_not_supported_in_gpt2(fields):
    with pytest.raises(ValueError): hub_to_config(config_to_hub(GPTConfig("gpt2", **TINY)) | fields)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2", "qwen3"])
def test_a_missing_size_is_an_error_and_a_missing_default_is_theirs(arch):
    fields = config_to_hub(GPTConfig(arch, **TINY))
    theirs = type(transformers.AutoConfig.for_model(arch))
    for name in ("vocab_size", "n_layer" if arch == "gpt2" else "num_hidden_layers"):
        with pytest.raises(ValueError, match=name): hub_to_config(without(fields, name))
    optional = {"num_key_value_heads", "head_dim", "rms_norm_eps", "layer_norm_epsilon", "n_inner",
                "tie_word_embeddings", "attention_bias", "mlp_bias"}
    sizes = dict(hidden_size=128, num_attention_heads=32) if arch in ("qwen2", "qwen3") else {}
    bare = without(fields, *optional) | sizes
    full = theirs(**without(bare, "dtype", "model_type", "architectures")).to_dict()
    ours = config_to_hub(hub_to_config(bare))
    for k in optional & ours.keys():
        if full[k] is not None: assert ours[k] == full[k], k


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2", "qwen3"])
def test_an_end_token_travels(arch, tmp_path):
    GPT(GPTConfig(arch, **TINY, bos_token_id=1, eos_token_id=(2, 3))).save_pretrained(tmp_path)
    assert GPT.from_pretrained(tmp_path).config.eos_token_id == (2, 3)
    theirs = AutoModel.from_pretrained(tmp_path)
    assert theirs.generation_config.eos_token_id == [2, 3]
    assert theirs.generation_config.bos_token_id == 1


def test_from_the_cache_of_the_hub(saved, tmp_path):
    "A download of huggingface_hub, imitated: by name, at a revision, from another cache, offline."
    model, folder = saved
    CharTokenizer.train(["abc"]).save(folder)
    cache, commit = tmp_path / "cache/models--somebody--tiny", "0" * 40
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/v1").write_text(commit)
    shutil.copytree(folder, cache / "snapshots" / commit)
    hub = dict(cache_dir=tmp_path / "cache", local_files_only=True)
    ids = torch.randint(50, (1, 9))
    opened = GPT.from_pretrained("somebody/tiny", revision="v1", token=False, **hub)
    assert torch.equal(opened(ids), model(ids))
    assert load_tokenizer("somebody/tiny", revision="v1", **hub).encode("cab")
    for open_it in (GPT.from_pretrained, load_tokenizer):
        with pytest.raises(FileNotFoundError, match="somebody/tiny"):
            open_it("somebody/tiny", revision="v2", **hub)
        with pytest.raises(TypeError, match="revison"): open_it(folder, revison="v1")
        with pytest.raises(TypeError, match="revison"): opened(folder, revison="v1")


@pytest.mark.parametrize("shards", [0, 3])
def test_pickled_weights_are_refused_with_the_line_that_converts_them(saved, shards):
    model, folder = saved
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if not shards: torch.save(state, folder / "pytorch_model.bin")
    for i in range(shards):
        name = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin"
        torch.save(dict(list(state.items())[i::shards]), folder / name)
    torch.save({"state": {}}, folder / "optimizer.pt")
    with pytest.raises(FileNotFoundError, match="never opened") as e: GPT.from_pretrained(folder)
    line = str(e.value).partition("in that folder: ")[2]
    subprocess.run([sys.executable, *shlex.split(line)[1:]], cwd=folder, check=True)
    ids = torch.randint(50, (1, 9))
    assert torch.equal(GPT.from_pretrained(folder)(ids), model(ids))


@pytest.mark.parametrize("names, convert", [
    (("aaa.bin", "optimizer.pt", "pytorch_model.bin", "training_args.bin"),
     "['pytorch_model.bin']"),
    (("optimizer.pt", "weights.pth"), "['weights.pth']"),
    (("optimizer.pt", "training_args.bin"), None),
], ids=str)
def test_which_pickle_is_the_model(saved, names, convert):
    folder = saved[1]
    (folder / "model.safetensors").unlink()
    for name in names: (folder / name).write_bytes(b"")
    with pytest.raises(FileNotFoundError) as e: GPT.from_pretrained(folder)
    assert convert in str(e.value) if convert else "To convert" not in str(e.value)


def test_wrong_types_and_devices(saved):
    model, folder = saved
    known = "dtype is .*torch.float32, torch.bfloat16, torch.float16, torch.float64"
    for dtype in ("bf16", "float32", torch.int8, torch.complex64, torch.float8_e4m3fn, float):
        with pytest.raises(ValueError, match=known): GPT.from_pretrained(folder, dtype=dtype)
    for device in (0, "", False):
        with pytest.raises(ValueError, match="choose auto or cpu"):
            GPT.from_pretrained(folder, device=device)
    state = load_file(folder / "model.safetensors")
    mixed = {k: w if "embed" in k else w.bfloat16() for k, w in state.items()}
    save_file(mixed, folder / "model.safetensors")
    with pytest.raises(ValueError, match="several types, BF16, F32: .* dtype="):
        GPT.from_pretrained(folder)
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        opened = GPT.from_pretrained(folder, dtype=dtype)
        assert {p.dtype for p in opened.parameters()} == {dtype}


def test_a_gpt2_config_without_tokens_of_its_own():
    theirs = dict(bos_token_id=50256, eos_token_id=50256)   # the defaults of `transformers`
    fields = config_to_hub(GPTConfig("gpt2", **TINY)) | theirs
    assert hub_to_config(fields).eos_token_id is None
    assert hub_to_config(fields | dict(vocab_size=50257)).eos_token_id == 50256


def test_names_that_are_no_folder(tmp_path):
    for name in (tmp_path / "nothing", "../nothing", "runs/nothing", "nothing-of-that-name"):
        with pytest.raises(FileNotFoundError, match="no folder"): GPT.from_pretrained(name)


def test_saving_is_atomic_and_refuses_what_others_could_not_open(saved, tmp_path):
    model, folder = saved
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    def dies(part):
        part.write_bytes(b"half")
        raise OSError("no space left")
    with pytest.raises(OSError): write_beside(folder / "model.safetensors", dies)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="extra.bias"): model.save_pretrained(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


# --- the model itself

def variants(arch):
    "Settings in which models of a family differ."
    yield from ({}, {"tie_embeddings": False})
    if arch != "gpt2": yield from ({"n_kv_head": 1}, {"attention_bias": True})
    if arch not in ("gpt2", "qwen2"): yield {"d_head": 6}
    if arch == "llama": yield {"mlp_bias": True}


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2", "qwen3"])
def test_counts(arch):
    for changes in variants(arch):
        config = GPTConfig(arch, **TINY, **changes)
        model = GPT(config)
        size = sum(p.numel() for p in model.parameters())
        assert sum(count_params(config).values()) == model.n_params == size
        parts = vars(model.new_cache(2)).values()
        in_cache = sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))
        assert memory(config, 2)["cache"] == in_cache and memory(config, 2, 0)["cache"] == 0
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model(torch.zeros(2, 9, dtype=torch.long))
        assert counter.get_total_flops() == flops_per_token(config, 9) * 18


@given(st.integers(1, 60), st.sampled_from(["gpt2", "llama", "qwen2", "qwen3"]),
       st.integers(1, 10**6), st.integers(1, 10**6))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_every_depth_is_a_model(depth, arch, vocab_size, context):
    config = GPTConfig.from_depth(depth, vocab_size, context, arch)
    assert config.n_layer == depth and config.n_head * config.d_head == config.d_model
    assert config == GPTConfig(**dataclasses.asdict(config))
    assert config == hub_to_config(json.loads(json.dumps(config_to_hub(config))))


@pytest.mark.parametrize("wrong", [
    dict(arch="bert"),
    dict(arch=None),
    dict(n_head=5),
    dict(n_head=0),
    dict(n_head=-2),
    dict(n_kv_head=3),
    dict(n_layer=True),
    dict(n_layer=2.0),
    dict(vocab_size=None),
    dict(vocab_size=2**40),
    dict(d_head=7),
    dict(rope_theta=-1.0),
    dict(norm_eps=float("nan")),
    dict(tie_embeddings=1),
    dict(mlp_bias=True),
    dict(eos_token_id=[3]),
    dict(arch="gpt2", n_kv_head=1),
    dict(arch="gpt2", rope_theta=1e4),
    dict(arch="gpt2", d_head=4),
    dict(arch="gpt2", attention_bias=False),
    dict(arch="llama", n_head=3, d_head=4),
], ids=str)
def test_wrong_configs(wrong):
    with pytest.raises(ValueError): GPTConfig(**{**TINY, "arch": "qwen3", **wrong})


@pytest.mark.parametrize("name", ["factor", "original", "low", "high", "magnitude"])
def test_wrong_rope_scalings(name):
    for bad in (10**400, 1e300, 1e-300, 0, -1.0, math.inf, math.nan, True, "4", None):
        fields = dict(rule="yarn", factor=4.0, original=64) | {name: bad}
        with pytest.raises(ValueError, match=f"{name} is .*it should be") as e:
            RopeScaling(**fields)
        assert len(str(e.value)) < 150
    with pytest.raises(ValueError, match="low below high"): RopeScaling("yarn", 4.0, 64, low=4.0)


def test_wrong_input():
    model, ids = GPT(GPTConfig("llama", **TINY)), torch.randint(50, (2, 8))
    for bad in (ids + 50, ids - 51, ids[0], ids[:, :0], torch.zeros(1, 33, dtype=torch.long)):
        with pytest.raises(ValueError): model(bad)
    for bad in (ids.float(), ids.bool(), ids.byte(), ids.tolist(), "text"):
        with pytest.raises(TypeError, match="ids must be a tensor of whole numbers"): model(bad)
    for bad in (ids.int(), ids.float(), ids.tolist()):
        with pytest.raises(TypeError, match="targets must be a tensor"): model.loss(ids, bad)
    assert torch.equal(model(ids.int()), model(ids))
    for targets in (ids + 50, ids[:, 1:], ids * 0 - 5):
        with pytest.raises(ValueError): model.loss(ids, targets)
    with pytest.raises(ValueError, match="pad"): model(ids, pad=torch.tensor([1]))
    cache = model.new_cache(2, max_length=10)
    model(ids, cache)
    with pytest.raises(ValueError, match="do not fit"): model(ids, cache)
    with pytest.raises(ValueError, match="rows"): model(ids[:1, :1], cache)
    assert cache.length == 8
    with pytest.raises(ValueError): cache.truncate(9)
    with pytest.raises(ValueError): model.new_cache(1, max_length=0)


def test_cache_truncates_and_reorders():
    torch.manual_seed(0)
    model, ids = GPT(GPTConfig("qwen3", **TINY)), torch.randint(50, (2, 8))
    with torch.no_grad():
        cache = model.new_cache(2)
        model(ids, cache)
        cache.truncate(5)
        assert_close(model(ids[:, 5:], cache), model(ids)[:, 5:])
        cache.reorder(torch.tensor([1, 1, 0]))
        new = torch.randint(50, (3, 1))
        assert_close(model(new, cache), model(torch.cat((ids[[1, 1, 0]], new), 1))[:, -1:])


def test_loss_ignores_minus_100():
    model, ids = GPT(GPTConfig("qwen3", **TINY)), torch.randint(50, (2, 8))
    targets = ids.roll(-1, 1)
    masked = targets.clone()
    masked[:, 4:] = -100
    assert torch.allclose(model.loss(ids, masked), model.loss(ids[:, :4], targets[:, :4]))


@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_forward_is_one_graph(arch):
    "What torch.compile sees has no break, with a cache and padding too."
    model, ids, pad = GPT(GPTConfig(arch, **TINY)), torch.randint(50, (2, 8)), torch.tensor([0, 3])
    whole = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(whole(ids), model(ids))
    with torch.no_grad():
        a, b = model.new_cache(2), model.new_cache(2)
        for part in (ids[:, :4], ids[:, 4:5], ids[:, 5:6], ids[:, 6:]):
            assert_close(whole(part, a, pad), model(part, b, pad))


def test_import_is_light_and_device_names_are_checked():
    heavy = {"transformers", "datasets", "huggingface_hub", "IPython", "fastcore", "matplotlib"}
    code = f"import sys, gpt_nb.model; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert pick_device("cpu").type == "cpu" and pick_device(torch.device("cpu")).type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("gpu", "cuda:99", "", "tpu"):
        with pytest.raises(ValueError, match="choose"): pick_device(name)
