"""Models for others, and memory counted: what `transformers`, onnxruntime and the reader of GGUF
make of our files."""
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from gpt_nb.attention import RopeScaling, rope_frequencies, slow_down
from gpt_nb.checkpoint import hub_state, load_tokenizer, open_spec
from gpt_nb.data import tokenize
from gpt_nb.model import GPT, GPTConfig, memory
from gpt_nb.pretrained import (
    QWEN_SPLIT, check_gguf, export, export_gguf, export_onnx, kept_bytes, memory_needed,
    model_card, open_checkpoint, top_next)
from gpt_nb.sampling import generate
from gpt_nb.tales import Tales
from gpt_nb.tokenizer import GPT2_SPLIT, BPETokenizer, CharTokenizer
from gpt_nb.training import Run, TrainConfig, train

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
archs = pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen2", "qwen3"])
YARN = RopeScaling("yarn", 4.0, 16, high=32.0, magnitude=0.1 * np.log(4.0) + 1)


@pytest.fixture(scope="module")
def tok(): return BPETokenizer.train(Tales().texts(150) + Tales("zh").texts(50), 500)


def tiny(arch, tok, **more):
    "A random model whose biases and norms are random too."
    torch.manual_seed(0)
    more = ({"d_head": 128} if arch == "qwen3" else {}) | more
    more |= {"bos_token_id": tok.end_id, "eos_token_id": tok.end_id}
    model = GPT(GPTConfig(arch, tok.vocab_size, 1024, 2, 4, 32, **more)).eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(0.1 * torch.randn_like(p))
    return model


def run_of(model, tok, **more):
    row = dict(step=1, tokens=1234, loss=2.0, val_loss=2.0, lr=0.0, tokens_per_second=1)
    return Run(model, tok, TrainConfig(steps=1), [row], seconds=5.0, val_loss=2.0, **more)


# ---- ONNX

@archs
def test_onnx_gives_the_same_numbers_at_any_batch_and_length(arch, tok, tmp_path):
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    more = {} if arch == "gpt2" else {"n_kv_head": 2, "rope_scaling": YARN}
    dtype = torch.bfloat16 if arch == "llama" else torch.float32
    model = tiny(arch, tok, **more).to(dtype)
    export_onnx(model, tmp_path / "model.onnx")
    exact = GPT(model.config).eval()
    exact.load_state_dict({name: w.float() for name, w in model.state_dict().items()})
    session = ort.InferenceSession(tmp_path / "model.onnx")
    for shape in ((1, 1), (2, 9), (3, 100)):
        ids = torch.randint(tok.vocab_size, shape)
        with torch.no_grad(): want = exact(ids).numpy()
        assert np.abs(session.run(None, {"ids": ids.numpy()})[0] - want).max() < 1e-4


# ---- GGUF

@archs
@pytest.mark.parametrize("more", [
    {},
    {"tie_embeddings": False},
    {"n_kv_head": 2, "attention_bias": True}], ids=str)
def test_gguf_is_read_by_transformers(arch, more, tok, tmp_path):
    pytest.importorskip("gguf")
    if arch == "gpt2" and "n_kv_head" in more: pytest.skip("GPT-2 has a key for each query")
    if arch in ("llama", "qwen3") and "attention_bias" in more:
        more = {"n_kv_head": 2}   # their reader knows no biases there
    model = tiny(arch, tok, **more)
    export_gguf(model, tok, tmp_path / "model.gguf")
    opener = transformers.AutoModelForCausalLM
    theirs = opener.from_pretrained(tmp_path, gguf_file="model.gguf").eval()
    ids = torch.randint(tok.vocab_size, (2, 40))
    with torch.no_grad(): assert (theirs(ids).logits - model(ids)).abs().max() < 1e-4


@archs
def test_gguf_tensor_by_tensor(arch, tok, tmp_path):
    "Every number of the model is in the file, once; in bfloat16 without a change."
    gguf = pytest.importorskip("gguf")
    model = tiny(arch, tok).to(torch.bfloat16)
    export_gguf(model, tok, tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    stored = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    state = {name: w.float().numpy() for name, w in hub_state(model).items()}
    assert len(stored) == len(state)
    def numbers(arrays): return np.sort(np.concatenate([np.ravel(a) for a in arrays]))
    assert np.array_equal(numbers(stored.values()), numbers(state.values()))
    ours, theirs = "model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"
    if arch == "gpt2": ours, theirs = "transformer.wte.weight", "token_embd.weight"
    assert np.array_equal(stored[theirs].reshape(state[ours].shape), state[ours])


def field(reader, name): return reader.fields[name].contents()


def test_gguf_holds_the_tokenizer_and_the_positions(tok, tmp_path):
    gguf = pytest.importorskip("gguf")
    model = tiny("llama", tok, rope_scaling=RopeScaling("llama3", 8.0, 64), rope_theta=5e5)
    export_gguf(model, tok, tmp_path / "a.gguf")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert field(reader, "tokenizer.ggml.model") == "gpt2"
    assert field(reader, "tokenizer.ggml.pre") == "dbrx"
    names = field(reader, "tokenizer.ggml.tokens")
    kinds = field(reader, "tokenizer.ggml.token_type")
    assert field(reader, "tokenizer.ggml.add_bos_token")
    assert len(names) == tok.vocab_size
    assert names[tok.end_id] == "<|end|>"
    assert kinds[tok.end_id] == gguf.TokenType.CONTROL
    assert kinds[0] == gguf.TokenType.NORMAL
    spec = tok.spec["model"]
    assert names[:256] == list(spec["vocab"])[:256]
    assert field(reader, "tokenizer.ggml.merges") == [" ".join(pair) for pair in spec["merges"]]
    assert field(reader, "tokenizer.ggml.eos_token_id") == tok.end_id
    assert field(reader, "llama.context_length") == 1024
    divisors = next(t.data for t in reader.tensors if t.name == "rope_freqs.weight")
    frequencies = rope_frequencies(8, 5e5)
    slowed = slow_down(frequencies, 5e5, model.config.rope_scaling)
    assert np.allclose(frequencies.numpy() / divisors, slowed.numpy())
    export_gguf(tiny("qwen3", tok, rope_scaling=YARN), tok, tmp_path / "b.gguf")
    reader = gguf.GGUFReader(tmp_path / "b.gguf")
    assert field(reader, "qwen3.rope.scaling.type") == "yarn"
    assert field(reader, "qwen3.rope.scaling.original_context_length") == 16


@pytest.mark.parametrize("split, name", [(GPT2_SPLIT, "gpt-2"), (QWEN_SPLIT, "qwen2")])
def test_gguf_names_the_way_text_is_cut(split, name, tmp_path):
    gguf = pytest.importorskip("gguf")
    tok = BPETokenizer.train(Tales().texts(20), 300, split=split)
    export_gguf(tiny("qwen2", tok), tok, tmp_path / "model.gguf")
    assert field(gguf.GGUFReader(tmp_path / "model.gguf"), "tokenizer.ggml.pre") == name


def test_gguf_ends_texts_with_the_tokenizers_token_where_the_config_names_none(tok, tmp_path):
    gguf = pytest.importorskip("gguf")
    for eos, want in ((None, tok.end_id), ((7, 8), 7), (9, 9)):
        model = tiny("llama", tok)
        model.config = replace(model.config, eos_token_id=eos)
        export_gguf(model, tok, tmp_path / "a.gguf")
        assert field(gguf.GGUFReader(tmp_path / "a.gguf"), "tokenizer.ggml.eos_token_id") == want
    endless = BPETokenizer.train(["a b c"], 260, special_tokens=[])
    with pytest.raises(ValueError, match="no end token"):
        export_gguf(tiny("llama", tok), endless, tmp_path / "b.gguf")


# Parts of a tokenizer.json.
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
DIGITS = {"type": "Digits", "individual_digits": True}


def in_turn(*steps): return {"type": "Sequence", "pretokenizers": list(steps)}


def opened(spec, **parts):
    "A tokenizer of others: ours with some parts of its file changed."
    spec = json.loads(json.dumps(spec)) | parts
    return open_spec(spec, {"eos_token": "<|end|>"})


def test_gguf_names_single_digits_and_whole_words(tok, tmp_path):
    gguf = pytest.importorskip("gguf")
    digits = in_turn(DIGITS, BYTES | {"trim_offsets": True, "use_regex": True})
    words_first = tok.spec["model"] | {"ignore_merges": True}
    says_neither = {k: v for k, v in tok.spec["model"].items() if k != "ignore_merges"}
    smollm = opened(tok.spec, pre_tokenizer=digits)
    llama3 = opened(tok.spec, model=words_first)
    old = opened(tok.spec, model=says_neither)
    for t, name in ((smollm, "smollm"), (llama3, "llama-bpe"), (old, "dbrx")):
        export_gguf(tiny("llama", tok), t, tmp_path / "a.gguf")
        assert field(gguf.GGUFReader(tmp_path / "a.gguf"), "tokenizer.ggml.pre") == name
    both = opened(tok.spec, pre_tokenizer=digits, model=words_first)
    with pytest.raises(ValueError, match="takes whole words first"):
        export_gguf(tiny("llama", tok), both, tmp_path / "b.gguf")


LACKS = [("qwen3", {"attention_bias": True}, "attention_bias"),
         ("qwen3", {"rope_scaling": RopeScaling("llama3", 8.0, 64)}, "rule llama3"),
         ("qwen2", {"rope_scaling": RopeScaling("llama3", 8.0, 64)}, "rule llama3")]


@pytest.mark.parametrize("arch, more, named", LACKS, ids=str)
def test_gguf_refuses_by_name_what_llama_cpp_does_not_load(arch, more, named, tok, tmp_path):
    run = run_of(tiny(arch, tok, **more), tok)
    with pytest.raises(ValueError, match=f"llama.cpp's {arch} has no .*{named}"):
        export(run, "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    config = replace(run.model.config, n_layer=513)
    with pytest.raises(ValueError, match="513 layers"): check_gguf(config, tok)


def test_gguf_refuses_what_llama_cpp_would_read_wrongly(tok, tmp_path):
    pytest.importorskip("gguf")
    letters = CharTokenizer.train(["abc"])
    own = BPETokenizer.train(["a b c"], 260, split=r"\S+|\s+")
    with pytest.raises(ValueError, match="byte-level BPE"):
        export_gguf(tiny("qwen3", letters), letters, tmp_path / "a.gguf")
    with pytest.raises(ValueError, match="no name"):
        export_gguf(tiny("qwen3", own), own, tmp_path / "b.gguf")
    nfc = opened(tok.spec, normalizer={"type": "NFC"})
    with pytest.raises(ValueError, match="NFC"):
        export_gguf(tiny("qwen3", tok), nfc, tmp_path / "d.gguf")
    yarn = RopeScaling("yarn", 4.0, 16, high=32.0, magnitude=1.0)
    with pytest.raises(ValueError, match="YaRN"):
        export_gguf(tiny("qwen3", tok, rope_scaling=yarn), tok, tmp_path / "c.gguf")


# ---- export

def test_the_exported_folder_continues_with_the_same_ids(tok, tmp_path):
    model = tiny("qwen3", tok)
    out = export(run_of(model, tok, options={"data": "tales"}, floor=1.9), "hf", tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    their_tok = transformers.AutoTokenizer.from_pretrained(out)
    ids = their_tok("Once a king 今天", return_tensors="pt").input_ids
    # a text begins for others as it did in training
    assert ids[0].tolist() == [tok.end_id, *tok.encode("Once a king 今天")]
    greedy = dict(max_new_tokens=40, do_sample=False, pad_token_id=0, eos_token_id=None)
    want = theirs.generate(ids, attention_mask=torch.ones_like(ids), **greedy)[0].tolist()
    assert generate(model, ids[0].tolist(), 40, temperature=0) == want
    assert {p.name for p in out.iterdir()} == {
        "README.md", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json"}
    card = (out / "README.md").read_text("utf-8")
    figures = [f"{model.n_params:,}", "2.0000", "5.3% above", "1,234"]
    for part in ("license: other", "`tales`", *figures): assert part in card, part
    assert load_tokenizer(out).spec | {"post_processor": None} == tok.spec
    assert load_tokenizer(out).encode("Once a king 今天") == tok.encode("Once a king 今天")


QWEN_CUT = dict(type="Split", pattern={"Regex": QWEN_SPLIT}, behavior="Isolated", invert=False)
CUTS = {"gpt-4": {},
        "qwen": {"pre_tokenizer": in_turn(QWEN_CUT, BYTES), "normalizer": {"type": "NFC"}},
        "gpt-2": {"pre_tokenizer": BYTES | {"trim_offsets": True, "use_regex": True}},
        "digits": {"pre_tokenizer": in_turn(DIGITS, BYTES | {"use_regex": True})}}


@archs
@pytest.mark.parametrize("cut", CUTS)
def test_the_exported_tokenizer_gives_the_same_ids_or_the_export_is_refused(
        arch, cut, tok, tmp_path):
    "Every family with every way to cut, and files whose post_processor adds nothing."
    adds_nothing = BYTES | {"add_prefix_space": True, "use_regex": True}
    processors = {"ByteLevel": adds_nothing,
                  "none": None,
                  "Sequence": {"type": "Sequence", "processors": [adds_nothing]}}
    kind = "GPT2Tokenizer" if arch == "gpt2" else "Qwen2Tokenizer"
    model = tiny(arch, tok)
    for name, processor in processors.items():
        t = opened(tok.spec, **CUTS[cut], post_processor=processor)
        t.config = {"tokenizer_class": kind, "eos_token": "<|end|>", "add_bos_token": False}
        if arch == "qwen2" and cut != "qwen":
            with pytest.raises(ValueError, match="other ids"):
                export(run_of(model, t), "hf", tmp_path / name)
            continue
        out = export(run_of(model, t), "hf", tmp_path / name)
        theirs = transformers.AutoTokenizer.from_pretrained(out)
        for text in ("Once", "in 1923", "IT'S 12345 e\u0301a  x\n\n今天", "a\n \n b 12\t3", ""):
            assert theirs(text).input_ids == [tok.end_id, *t.encode(text)], (name, text)
        pair = [tok.end_id, *t.encode("Once"), *t.encode("more")]
        assert theirs("Once", "more").input_ids == pair


def test_a_begin_token_that_is_there_is_not_put_there_twice(tok, tmp_path):
    begin = {"SpecialToken": {"id": "<|end|>", "type_id": 0}}
    text, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    end = {"id": "<|end|>", "ids": [tok.end_id], "tokens": ["<|end|>"]}
    template = {"type": "TemplateProcessing",
                "single": [begin, text],
                "pair": [begin, text, second],
                "special_tokens": {"<|end|>": end}}
    t = opened(tok.spec, post_processor=template)
    out = export(run_of(tiny("llama", tok), t), "hf", tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    assert theirs("Once").input_ids == [tok.end_id, *t.encode("Once")]


def test_export_to_onnx_says_nothing_of_other_packages(tok, tmp_path):
    "In a process of its own, where nobody has set the loggers."
    pytest.importorskip("onnxscript")
    run_of(tiny("qwen3", tok), tok).model.save_pretrained(tmp_path / "in")
    code = ("import sys; from gpt_nb.model import GPT; from gpt_nb.pretrained import export_onnx; "
            "export_onnx(GPT.from_pretrained(sys.argv[1]), sys.argv[2])")
    command = [sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "model.onnx")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "model.onnx").is_file()


def test_export_and_card_refuse_what_does_not_belong_together(tok, tmp_path):
    smaller = GPT(GPTConfig("qwen3", tok.vocab_size - 1, 64, 1, 2, 16))
    with pytest.raises(ValueError, match="do not belong together"):
        export(run_of(smaller, tok), "hf", tmp_path / "out")
    run = run_of(tiny("qwen3", tok), tok)
    with pytest.raises(ValueError, match="licence"): model_card(run, licence="mit\nx: y")
    with pytest.raises(ValueError, match="fills the context"):
        model_card(run, prompt="Once a king " * 1000)
    with pytest.raises(ValueError, match="dtype"): memory_needed(run.model.config, dtype=torch.int8)
    with torch.no_grad(): assert memory_needed(run.model.config, train=True)["activations"] > 0


def test_rows_without_a_token_are_shown_as_such(tok):
    config = GPTConfig("qwen3", tok.vocab_size + 8, 64, 1, 2, 16, bos_token_id=tok.end_id)
    padded = GPT(config).eval()
    assert any(text.startswith("[unused") for text, _ in top_next(padded, tok, "Once", 10**6))
    assert "# A small language model" in model_card(run_of(padded, tok))


def test_export_loses_nothing_and_leaves_nothing_half_written(tok, tmp_path, monkeypatch):
    run = run_of(tiny("qwen3", tok), tok)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileExistsError, match="choose another"):
        export(run, "hf", tmp_path / "full")
    with pytest.raises(FileExistsError): export(run, "hf", tmp_path / "full/precious")
    with pytest.raises(ValueError, match="hf, onnx or gguf"):
        export(run, "tflite", tmp_path / "out")
    with pytest.raises(ValueError, match="no tokenizer"):
        export(run_of(run.model, None), "hf", tmp_path / "out")
    def dies(self, folder):
        (folder / "model.safetensors.part").write_bytes(b"half")
        raise OSError("no space left")
    monkeypatch.setattr(GPT, "save_pretrained", dies)
    for name in ("out", "empty"):
        with pytest.raises(OSError, match="no space"): export(run, "hf", tmp_path / name)
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "empty").iterdir())
    assert (tmp_path / "full/precious").read_text() == "x"


def test_a_card_without_a_floor_or_a_log(tok):
    run = run_of(tiny("qwen3", tok), tok)
    run.history, run.val_loss = [], None
    card = model_card(run, licence="mit")
    assert "license: mit" in card and "above" not in card and "unknown" in card


@pytest.mark.parametrize("name", ["tales\nand a `line`|more\r\n# no heading", "texts/*.txt"])
def test_a_card_holds_the_name_of_the_data_on_one_line(tok, name):
    card = model_card(run_of(tiny("qwen3", tok), tok, options={"data": name}))
    shown = name.replace("`", "'").split()
    assert f"Trained with gpt_nb on `{' '.join(shown)}`. It knows" in card
    rows = [line for line in card.splitlines() if line.startswith("| data")]
    assert rows == [f"| data | `{' '.join(shown)}` |".replace("line'|", "line'\\|")]
    assert "\n# no heading" not in card


# ---- whatever opens

def test_a_model_and_its_tokenizer_open_of_anything(tok, tmp_path):
    texts = Tales().texts(40)
    model, config = tiny("llama", tok), TrainConfig(steps=4, batch_size=2, keep=(2,))
    run = train(model, tokenize(texts, tok, progress=False), config, tok, tmp_path / "run",
                show=False)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="30KB")
    their_tok = transformers.AutoTokenizer.from_pretrained(tmp_path / "run")
    their_tok.save_pretrained(tmp_path / "theirs")
    export(run, "hf", tmp_path / "out")
    for name in ("run", "theirs", "out", "run/checkpoints/000002"):
        opened, again = open_checkpoint(tmp_path / name)
        assert opened.config == run.model.config and again.encode(texts[0]) == tok.encode(texts[0])
        assert again.end_id == tok.end_id
        same = torch.equal(opened.lm_head.weight, run.model.lm_head.weight)
        assert same == ("checkpoints" not in name)
    for name in ("tales-en", "tales-zh", "growing/000200"):
        opened, again = open_checkpoint(name, torch.float32)
        assert again.vocab_size == opened.config.vocab_size
    run.model.save_pretrained(tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match="bare has no tokenizer.json"):
        open_checkpoint(tmp_path / "bare")
    BPETokenizer.train(texts, 700).save(tmp_path / "bare")
    with pytest.raises(ValueError, match="do not belong together"):
        open_checkpoint(tmp_path / "bare")


# ---- the likeliest tokens

def test_top_next_is_the_softmax(tok):
    model = tiny("llama", tok)
    ids = [tok.end_id, *tok.encode("Once a")]
    p = model(torch.tensor([ids]))[0, -1].softmax(-1)
    found = top_next(model, tok, "Once a", 3)
    assert [f[1] for f in found] == pytest.approx(p.topk(3).values.tolist())
    assert found[0][0] == tok.decode([int(p.argmax())])
    assert len(top_next(model, tok, "", 10**6)) == tok.vocab_size
    with pytest.raises(ValueError, match="empty"): top_next(model, tok, "", start=())
    with pytest.raises(ValueError, match="one token or more"): top_next(model, tok, "a", 0)


# ---- memory

@archs
def test_kept_bytes_on_meta_are_those_of_a_real_run(arch):
    "Within a tenth, at lengths where the table of weights would show."
    config = GPTConfig(arch, 500, 256, 3, 4, 128)
    counted = memory_needed(config, 4, 200, train=True, dtype=torch.float32)
    real = kept_bytes(GPT(config), torch.zeros(4, 200, dtype=torch.long))
    assert counted["activations"] == pytest.approx(real, rel=0.1)
    plain = memory(config, 4, 200, 4)
    for part in ("weights", "gradients", "optimizer"): assert counted[part] == plain[part]
    short = replace(config, context=4)   # shorter than the two lengths it is found with
    assert memory_needed(short, train=True)["activations"] > 0
    for batch_size, length in ((0, 10), (1, 0), (1, 257), (1, -5)):
        with pytest.raises(ValueError, match="1 to 256"): memory_needed(config, batch_size, length)
    halves = memory(config, 4, 200, 2)
    assert memory_needed(config, 4, 200) == {k: halves[k] for k in ("weights", "cache")}
