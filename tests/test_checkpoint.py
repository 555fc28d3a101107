"""Files against `transformers`: which keys of a config change what is computed is asked of its own
classes, bit by bit."""
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from gpt_nb.checkpoint import (
    FAMILIES, LLAMA_NAMES, Family, config_to_hub, from_stored, hub_state, hub_to_config,
    load_tokenizer, read_json, to_stored, weight_files,
)
from gpt_nb.model import GPT, GPTConfig, count_params

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
AutoModel = transformers.AutoModelForCausalLM

families = pytest.mark.parametrize("arch", FAMILIES)
SIZES = dict(vocab_size=50, context=32, n_layer=2, n_head=2, d_model=16)
IDS = torch.arange(2 * 24).view(2, 24) % 50


def their_fields(arch, **changes):
    "A small config.json as `transformers` writes it, every key of its class in it."
    written = config_to_hub(GPTConfig(arch, **SIZES, d_ff=24)) | dict(dtype="float32")
    config = type(transformers.AutoConfig.for_model(arch))(**written)
    fields = json.loads(config.to_json_string(use_diff=False))
    return fields | dict(architectures=[FAMILIES[arch].architecture]) | changes


def their_logits(fields, state=None, dtype=torch.float32):
    "What `transformers` computes from a config.json, with given or random weights; the weights."
    no_part = ("architectures", "transformers_version", "dtype", "torch_dtype")
    parts = {k: v for k, v in fields.items() if k not in no_part}
    config = transformers.AutoConfig.for_model(**parts)
    torch.manual_seed(0)
    model = AutoModel.from_config(config, attn_implementation="eager").to(dtype).eval()
    if state is None:
        with torch.no_grad():
            for w in model.parameters(): w.copy_(torch.randn(w.shape) * 0.3)
    else: model.load_state_dict(state)
    with torch.no_grad(): return model(IDS).logits, model.state_dict()


# For every key of transformers' classes a value that is not its default; a list: more than one.
OTHER = dict(
    activation_function=["relu", "gelu_pytorch_tanh", "gelu_fast", "gelu"],
    hidden_act=["gelu", "swish", "relu"],
    add_cross_attention=[True],
    scale_attn_weights=[False],
    scale_attn_by_inverse_layer_idx=[True],
    reorder_and_upcast_attn=[True],
    attn_pdrop=[0.3],
    embd_pdrop=[0.3],
    resid_pdrop=[0.3],
    attention_dropout=[0.3],
    initializer_range=[0.7],
    pretraining_tp=[2],
    summary_activation=["tanh"],
    summary_first_dropout=[0.4],
    summary_proj_to_labels=[False],
    summary_type=["mean"],
    summary_use_proj=[False],
    bos_token_id=[3, None],
    eos_token_id=[4, None, [4, 5]],
    pad_token_id=[2],
    use_cache=[False],
    chunk_size_feed_forward=[2],
    output_attentions=[True],
    output_hidden_states=[True],
    return_dict=[True],
    is_encoder_decoder=[True],
    id2label=[{"0": "a", "1": "b", "2": "c"}],
    label2id=[{"a": 0, "b": 1, "c": 2}],
    problem_type=["regression"],
    _name_or_path=["somewhere"],
    dtype=["bfloat16"],
    transformers_version=["4.1.0"],
    architectures=[None],
    layer_types=[["full_attention", "sliding_attention"], None],
    use_sliding_window=[True],
    sliding_window=[5],
    max_window_layers=[1],
    rope_parameters=[{"rope_type": "default", "rope_theta": 500.0},
                     {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}],
    n_inner=[24, None, 20],
    n_embd=[16],
    n_head=[1],
    n_layer=[1],
    n_positions=[24],
    vocab_size=[50],
    layer_norm_epsilon=[0.1],
    rms_norm_eps=[0.1],
    tie_word_embeddings=[False],
    head_dim=[8],
    hidden_size=[16],
    intermediate_size=[24],
    max_position_embeddings=[24],
    num_attention_heads=[2],
    num_key_value_heads=[2],
    num_hidden_layers=[2],
    attention_bias=[True],
    mlp_bias=[True],
    model_type=[],
)


def same_logits(key, logits, want):
    "Every bit as it was; of activation functions, to the rounding of their formulas."
    if logits is None: return False
    if key != "activation_function": return torch.equal(logits, want)
    return torch.allclose(logits, want, rtol=1e-5, atol=1e-6)


def our_logits(config, state, dtype):
    "What the model here computes with their weights."
    ours = GPT(config).to(dtype).eval()
    pairs = (pair for name, w in state.items() for pair in from_stored(name, w, config.family))
    ours.load_state_dict(dict(pairs), strict=True)
    with torch.no_grad(): return ours(IDS)


@families
def test_every_key_of_their_class_is_weighed_as_they_compute(arch):
    """A change that leaves every bit as it was is passed over; one that does not is used, with
    their result, or refused by its name."""
    changes = dict(max_window_layers=28) if FAMILIES[arch].windows else {}
    plain = their_fields(arch, **changes)
    assert hub_to_config(plain)
    # a KeyError: a key of theirs that nobody has weighed
    cases = [(key, value) for key in plain for value in OTHER[key]]
    for dtype, share in ((torch.float32, 1e-4), (torch.bfloat16, 0.1)):
        want, state = their_logits(plain, dtype=dtype)
        for key, value in cases:
            fields = plain | {key: value}
            try: config = hub_to_config(fields)
            except ValueError as e: config, refusal = None, str(e)
            try: logits, _ = their_logits(fields, state, dtype)
            except (RuntimeError, ValueError, TypeError, KeyError):
                logits = None   # other tensors, or no config at all
            if config is None:
                upcast_already = dtype == torch.float32 and key == "reorder_and_upcast_attn"
                assert key in refusal or "rotary" in refusal, (key, value, refusal)
                same = same_logits(key, logits, want)
                assert upcast_already or not same, (key, value, refusal)
            elif logits is not None:
                difference = (our_logits(config, state, dtype) - logits).abs().max()
                assert difference <= share * logits.abs().max(), (key, value)


def test_what_their_base_class_reads_of_writing_is_passed_over():
    "Old configs hold how a text is to be drawn; none of it is a logit's business."
    plain = their_fields("llama")
    for key in transformers.GenerationConfig._get_default_generation_params():
        assert hub_to_config(plain | {key: 3}) == hub_to_config(plain), key


# What the Hub's own files say beside the sizes, as published.
GPT2_HUB = dict(
    activation_function="gelu_new", architectures=["GPT2LMHeadModel"], attn_pdrop=0.1,
    bos_token_id=50256, embd_pdrop=0.1, eos_token_id=50256, initializer_range=0.02,
    layer_norm_epsilon=1e-05, model_type="gpt2", n_ctx=1024, n_embd=1024, n_head=16, n_layer=24,
    n_positions=1024, n_special=0, predict_special_tokens=True, resid_pdrop=0.1,
    summary_activation=None, summary_first_dropout=0.1, summary_proj_to_labels=True,
    summary_type="cls_index", summary_use_proj=True,
    task_specific_params={"text-generation": {"do_sample": True, "max_length": 50}},
    vocab_size=50257)
QWEN25_HUB = dict(
    architectures=["Qwen2ForCausalLM"], attention_dropout=0.0, bos_token_id=151643,
    eos_token_id=151643, hidden_act="silu", hidden_size=896, initializer_range=0.02,
    intermediate_size=4864, max_position_embeddings=32768, max_window_layers=24,
    model_type="qwen2", num_attention_heads=14, num_hidden_layers=24, num_key_value_heads=2,
    rms_norm_eps=1e-06, rope_theta=1000000.0, sliding_window=32768, tie_word_embeddings=True,
    torch_dtype="bfloat16", transformers_version="4.40.1", use_cache=True, use_mrope=False,
    use_sliding_window=False, vocab_size=151936)
SMOLLM2_HUB = dict(
    architectures=["LlamaForCausalLM"], attention_bias=False, attention_dropout=0.0,
    bos_token_id=0, eos_token_id=0, hidden_act="silu", hidden_size=576,
    initializer_range=0.041666666666666664, intermediate_size=1536, is_llama_config=True,
    max_position_embeddings=8192, model_type="llama", num_attention_heads=9, num_hidden_layers=30,
    num_key_value_heads=3, pretraining_tp=1, rms_norm_eps=1e-05, rope_interleaved=False,
    rope_scaling=None, rope_theta=100000, tie_word_embeddings=True, torch_dtype="bfloat16",
    transformers_version="4.40.1", use_cache=True, vocab_size=49152)


@pytest.mark.parametrize("fields, parameters", [
    (GPT2_HUB, 354_823_168),
    (QWEN25_HUB, 494_032_768),
    (SMOLLM2_HUB, 134_515_008),
], ids=["gpt2-medium", "Qwen2.5-0.5B", "SmolLM2-135M"])
def test_configs_of_the_hub(fields, parameters):
    "They open, and hold as many numbers as their authors say (and as transformers builds)."
    config = hub_to_config(fields)
    with torch.device("meta"):
        theirs = AutoModel.from_config(transformers.AutoConfig.for_model(**fields))
    size = sum(w.numel() for w in theirs.parameters())
    assert sum(count_params(config).values()) == size == parameters


def window(size, **more): return dict(use_sliding_window=True, sliding_window=size, **more)


def window_from(first, size): return window(size, layer_types=None, max_window_layers=first)


@pytest.mark.parametrize("arch, more", [
    ("qwen2", dict(head_dim=8)),
    ("qwen2", dict(attention_bias=True)),
    ("qwen3", dict(mlp_bias=False)),
    ("gpt2", dict(hidden_size=16, num_hidden_layers=2)),
    ("qwen2", window(5)),                # every layer's kind is written down
    ("qwen3", window(5)),
    ("qwen2", window_from(2, size=5)),   # from layer 2 on; there are two
    ("qwen3", window_from(2, size=5)),
    ("qwen2", window_from(0, size=32)),  # as wide as the context
    ("qwen3", window_from(0, size=32)),
    ("qwen2", window_from(0, size=None)),
    ("qwen3", window_from(0, size=None)),
    ("llama", dict(partial_rotary_factor=1.0)),
    ("llama", dict(quantization_config={})),
    ("llama", dict(hidden_act="swish")),
], ids=str)
def test_equal_in_other_words(arch, more):
    plain = their_fields(arch)
    assert hub_to_config(plain | more) == hub_to_config(plain)
    want, state = their_logits(plain)
    if "quantization_config" not in more:
        assert torch.equal(their_logits(plain | more, state)[0], want)


@pytest.mark.parametrize("arch, more", [
    ("qwen2", dict(head_dim=4)),
    ("qwen3", dict(mlp_bias=True)),
    ("gpt2", dict(hidden_size=32)),
    ("llama", dict(partial_rotary_factor=0.5)),
    ("qwen2", dict(use_mrope=True)),
    ("qwen2", window_from(0, size=5)),
    ("qwen2", window_from(1, size=5)),
    ("qwen3", window_from(0, size=5)),
    ("qwen3", window_from(1, size=5)),
    ("qwen3", window("5", layer_types=None)),
    ("llama", dict(quantization_config={"bits": 4})),
    ("llama", dict(something_new=0)),
    ("llama", dict(rope_interleaved=True)),
    ("llama", dict(layer_types=["sliding_attention"] * 2)),
], ids=str)
def test_what_changes_a_logit_is_refused_by_name(arch, more):
    with pytest.raises(ValueError, match=next(iter(more))): hub_to_config(their_fields(arch) | more)


# ---- records

def test_the_records_say_what_transformers_builds():
    "Norms, biases, q and k norms, gates: by the names in their models."
    for arch, family in FAMILIES.items():
        theirs = AutoModel.from_config(transformers.AutoConfig.for_model(**their_fields(arch)))
        stored = theirs.state_dict().items()
        ours = dict(pair for name, w in stored for pair in from_stored(name, w, family))
        assert type(theirs).__name__ == family.architecture
        parts = {
            "embed_positions": not family.rotary,
            "q_norm": family.qk_norm,
            "gate_proj": family.gated,
            "q_proj.bias": family.attention_bias,
            "o_proj.bias": family.attention_bias and family.out_bias,
            "down_proj.bias": family.mlp_bias,
        }
        for part, there in parts.items():
            assert any(part in name for name in ours) == there, (arch, part)


@families
def test_to_the_file_and_back(arch):
    torch.manual_seed(0)
    for tie in (True, False):
        model = GPT(GPTConfig(arch, **SIZES, tie_embeddings=tie))
        stored = hub_state(model)
        assert ("lm_head.weight" in stored) != tie
        family, weights = model.config.family, model.state_dict()
        back = dict(pair for name, w in stored.items() for pair in from_stored(name, w, family))
        assert all(torch.equal(back[name], w) for name, w in weights.items() if name in back)
        assert len(back) == len(weights) - tie
        assert to_stored(back, model.config.family).keys() == stored.keys()


class PlainNorm(nn.LayerNorm):
    "OLMo's: no parameters."
    def __init__(self, width, eps): super().__init__(width, eps, elementwise_affine=False)


NOT_OLMO = ("norm_eps", "d_head", "mlp_bias")
OLMO = Family(
    "OlmoForCausalLM",
    {ours: theirs for ours, theirs in LLAMA_NAMES.items() if ours not in NOT_OLMO},
    norm=PlainNorm,
    norm_eps=1e-5,
    fixed=dict(hidden_act=("silu", "swish"), clip_qkv=(None,)),
    absent=dict(num_key_value_heads=None, tie_word_embeddings=False, attention_bias=False),
    written=dict(hidden_act="silu", attention_dropout=0.0, clip_qkv=None))


def test_a_new_family_is_one_record(monkeypatch, tmp_path):
    """The first OLMo, added here and nowhere else: opened, equal to transformers, counted, written,
    opened by transformers."""
    monkeypatch.setitem(FAMILIES, "olmo", OLMO)
    torch.manual_seed(0)
    config = transformers.OlmoConfig(
        vocab_size=50, hidden_size=32, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=40, num_hidden_layers=2, max_position_embeddings=64, pad_token_id=1,
        eos_token_id=2, initializer_range=0.2)
    theirs = transformers.OlmoForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours, ids = GPT.from_pretrained(tmp_path / "theirs"), torch.randint(50, (2, 40))
    with torch.no_grad(): want = theirs(ids).logits
    assert (ours(ids) - want).abs().max() < 1e-5 * want.abs().max()
    size = sum(w.numel() for w in theirs.parameters())
    assert sum(count_params(ours.config).values()) == ours.n_params == size
    ours.save_pretrained(tmp_path / "ours")
    again = AutoModel.from_pretrained(tmp_path / "ours")
    with torch.no_grad(): assert torch.equal(again(ids).logits, want)
    clipped = read_json(tmp_path / "ours/config.json") | dict(clip_qkv=8.0)
    with pytest.raises(ValueError, match="clip_qkv"): hub_to_config(clipped)


# ---- settings

@pytest.mark.parametrize("wrong, says", [
    (dict(arch="bert"), "arch is 'bert'.*gpt2, llama, qwen2, qwen3"),
    (dict(arch=None), "arch is None"),
    (dict(n_layer=0), "n_layer is 0.*greater than or equal to 1"),
    (dict(n_layer=1001), "n_layer is 1001.*1000"),
    (dict(vocab_size=1e5), "vocab_size is 100000.0"),
    (dict(vocab_size=2**24 + 1), "vocab_size is 16777217.*16777216"),
    (dict(n_head=True), "n_head is True"),
    (dict(norm_eps=2.0), "norm_eps is 2.0.*less than or equal to 1"),
    (dict(rope_theta=0.5), "rope_theta is 0.5"),
    (dict(tie_embeddings=1), "tie_embeddings is 1"),
    (dict(rope_scaling="yarn"), "rope_scaling is 'yarn'"),
    (dict(n_head=5), "d_model 16 is no multiple of n_head 5: give d_head"),
    (dict(n_kv_head=3), "n_head 2 is no multiple of n_kv_head 3"),
    (dict(d_head=7), "d_head 7 is odd"),
    (dict(bos_token_id=50), "bos_token_id is 50.*0 to 49"),
    (dict(eos_token_id=(1, 50)), "eos_token_id is 50.*0 to 49"),
    (dict(eos_token_id=()), r"eos_token_id is \(\)"),
    (dict(bos_token_id=-1), "bos_token_id is -1"),
    (dict(mlp_bias=True), "mlp_bias is True.*qwen3.*leave it out"),
    (dict(arch="gpt2", n_kv_head=1), "n_kv_head is 1.*gpt2.*always 2"),
    (dict(arch="gpt2", rope_theta=1e4), "gpt2 learns its positions"),
    (dict(arch="llama", n_head=3, d_head=4),
     "d_model 16 is no multiple of n_head 3, as llama wants it"),
    (dict(n_head=2**12, d_head=2**12), "widest attention"),
    (dict(n_embd=3), "n_embd is no setting here: there are arch, vocab_size, .*d_model, "),
], ids=str)
def test_what_a_wrong_config_is_told(wrong, says):
    fields = {**SIZES, "arch": "qwen3", **wrong}
    with pytest.raises(ValueError, match=says) as error: GPTConfig(**fields)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_config_is_a_value():
    config = GPTConfig("llama", **SIZES)
    assert config == GPTConfig(**dataclasses.asdict(config))
    assert hash(config) == hash(dataclasses.replace(config))
    assert dataclasses.replace(config, context=9).context == 9
    with pytest.raises(dataclasses.FrozenInstanceError): config.context = 3


def test_a_wrong_yarn_and_a_missing_one_are_named():
    plain = config_to_hub(GPTConfig("llama", **SIZES))
    wrong = [("4", "factor is '4': it should be a valid number"), (True, "factor is True"),
             (None, "rope_type yarn without factor$")]
    for factor, says in wrong:
        rope = {"rope_type": "yarn", "factor": factor}
        with pytest.raises(ValueError, match=says): hub_to_config(plain | {"rope_parameters": rope})


@pytest.mark.parametrize("name", ["", " ", "a b", "../nothing", "a/b/c", "~nobody/x", "/etc/passwd",
                                  "http://x/y", "Once upon a time. " * 300, "a" * 5000])
def test_what_is_no_name_is_told_what_names_there_are(name):
    for opened in (GPT.from_pretrained, load_tokenizer):
        with pytest.raises(FileNotFoundError) as error: opened(name)
        give = "give a folder, a house model such as tales-en, or an id on the Hub such as"
        assert str(error.value) == f"there is no folder {name!r:.200}: {give} Qwen/Qwen3-0.6B"


def test_an_index_of_many_wrong_names_is_one_line(tmp_path):
    names = {str(i): f"../{i}.safetensors" for i in range(5000)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    says = r"names no proper files: '../0.safetensors, .* and 4996 more'$"
    with pytest.raises(ValueError, match=says): weight_files(tmp_path)


# ---- bytes

def safetensors_file(header, numbers=b"", length=None):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(head) if length is None else length).to_bytes(8, "little") + head + numbers


def tensor_at(start, end, *shape):
    "What a header says of a tensor in these bytes."
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.parametrize("data", [
    safetensors_file({}, length=2**40),
    safetensors_file(b"[]"),
    safetensors_file(b"{"),
    safetensors_file({"a": tensor_at(0, 4, 2)}, bytes(4)),
    safetensors_file({"a": tensor_at(0, 4, 1), "b": tensor_at(0, 4, 1)}, bytes(4)),
    safetensors_file({"a": tensor_at(0, 2**62, 2**60)}, bytes(4)),
    safetensors_file({"a": tensor_at(0, 4, -1)}, bytes(4)),
], ids=["length", "a list", "no JSON", "too few bytes", "overlap", "huge", "negative"])
def test_headers_that_lie(data, tmp_path):
    GPT(GPTConfig("qwen3", **SIZES)).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="damaged or cut off"): GPT.from_pretrained(tmp_path)


def test_a_file_written_by_hand_opens(tmp_path):
    "The format is what the chapter says: eight bytes, JSON, numbers."
    torch.manual_seed(0)
    model = GPT(GPTConfig("qwen3", **SIZES))
    model.save_pretrained(tmp_path)
    header, numbers = {}, b""
    for name, w in hub_state(model).items():
        data = w.detach().numpy().astype("<f4").tobytes()
        offsets = [len(numbers), len(numbers) + len(data)]
        header[name] = dict(dtype="F32", shape=list(w.shape), data_offsets=offsets)
        numbers += data
    (tmp_path / "model.safetensors").write_bytes(safetensors_file(header, numbers))
    again = GPT.from_pretrained(tmp_path)
    for a, b in zip(again.parameters(), model.parameters()):
        assert np.array_equal(a.detach().numpy(), b.detach().numpy())


def test_a_name_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model = GPT(GPTConfig("qwen3", **SIZES))
    model.save_pretrained(tmp_path / "mine")
    assert GPT.from_pretrained("~/mine").config == model.config
