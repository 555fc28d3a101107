"""llama.cpp itself on our GGUF files: the same ids, and the same logits to its rounding.

Skipped where `llama_cpp` is not installed (`make test-llama` builds it, in half an hour)."""
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from gpt_nb.attention import RopeScaling
from gpt_nb.checkpoint import open_spec
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.pretrained import QWEN_SPLIT, check_gguf, export_gguf
from gpt_nb.tales import Tales
from gpt_nb.tokenizer import GPT2_SPLIT, GPT4_SPLIT, BPETokenizer, split_step

llama_cpp = pytest.importorskip("llama_cpp", reason="no llama.cpp here: make test-llama builds it")
pytest.importorskip("gguf")
YARN = RopeScaling("yarn", 4.0, 64, high=32.0, magnitude=0.1 * np.log(4.0) + 1)
TEXTS = ["Once a king", "in 1923 and 1234567", "IT'S Don't I'LL",
         "今天天气真好，小明。", "  two  spaces\n\n\n and\tlines \r\n",
         "naïve Straße 🪁 €4,799", "a<|end|>b", " ", "x" * 300,
         "def f(x):\n    return x**2  # Ω", "١٢٣ हिन्दी ไทย"]
said = []


@llama_cpp.llama_log_callback
def keep(level, text, data): said.append(text.decode("utf-8", "replace"))


@pytest.fixture(scope="module", autouse=True)
def quiet(): llama_cpp.llama_log_set(keep, None)


@pytest.fixture(scope="module")
def tok(): return BPETokenizer.train(Tales().texts(150) + Tales("zh").texts(50) + TEXTS * 2, 600)


def tiny(arch, tok, **more):
    "A random model whose biases and norms are random too."
    torch.manual_seed(0)
    sizes = dict(vocab_size=tok.vocab_size, context=512, n_layer=2, n_head=4, d_model=32)
    ends = dict(bos_token_id=tok.end_id, eos_token_id=tok.end_id)
    model = GPT(GPTConfig(arch, **sizes | ends | more)).eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(0.1 * torch.randn_like(p))
    return model


def load(model, tok, folder):
    "The model in llama.cpp, with keys and values in float32."
    export_gguf(model, tok, folder / "model.gguf")
    said.clear()
    exact = dict(type_k=0, type_v=0, flash_attn=False, logits_all=True)
    quiet = dict(verbose=False, n_threads=1, n_ctx=256)
    try: return llama_cpp.Llama(str(folder / "model.gguf"), **exact, **quiet)
    except Exception:
        errors = " ".join(line for line in said if "error" in line)
        pytest.fail(f"llama.cpp did not load it: {errors}")


def with_parts(tok, split, normal=None, **model):
    "The same merges, with another way to cut."
    spec = json.loads(json.dumps(tok.spec))
    to_bytes = spec["pre_tokenizer"]["pretokenizers"][-1]
    spec["pre_tokenizer"]["pretokenizers"] = [*split, to_bytes]
    spec["model"] |= model
    return open_spec(spec, {"eos_token": "<|end|>"})


DIGITS = {"type": "Digits", "individual_digits": True}
CUTS = {"gpt-2": ([split_step(GPT2_SPLIT)], {}),
        "gpt-4": ([split_step(GPT4_SPLIT)], {}),
        "qwen": ([split_step(QWEN_SPLIT)], {}),
        "llama-3": ([split_step(GPT4_SPLIT)], {"ignore_merges": True}),
        "smollm": ([DIGITS, split_step(GPT2_SPLIT)], {})}


@pytest.mark.parametrize("cut", CUTS)
def test_the_same_ids(cut, tok, tmp_path):
    split, model = CUTS[cut]
    own = with_parts(tok, split, **model)
    llm = load(tiny("llama", own), own, tmp_path)
    for text in TEXTS:
        def theirs(**how): return llm.tokenize(text.encode(), **how)
        assert theirs(add_bos=False, special=False) == own.encode(text), text
        assert theirs(add_bos=False, special=True) == own.encode(text, allowed_special="all"), text
        assert theirs(add_bos=True, special=False) == [own.end_id, *own.encode(text)]
    assert llm.token_eos() == llm.token_bos() == own.end_id


LLAMA3 = RopeScaling("llama3", 8.0, 64)
SHAPES = [("gpt2", {}),
          ("gpt2", {"tie_embeddings": False, "d_model": 30, "n_head": 3, "d_ff": 77}),
          ("llama", {"n_kv_head": 2, "tie_embeddings": False}),
          ("llama", {"attention_bias": True, "mlp_bias": True, "d_head": 6}),
          ("llama", {"rope_scaling": LLAMA3, "rope_theta": 5e5}),
          ("llama", {"rope_scaling": YARN}),
          ("qwen2", {"n_kv_head": 2, "vocab_size": 640}),
          ("qwen2", {"rope_scaling": YARN}),
          ("qwen3", {"d_head": 128, "n_kv_head": 1}),
          ("qwen3", {"d_head": 12, "d_model": 50, "tie_embeddings": False, "norm_eps": 1e-3}),
          ("qwen3", {"rope_scaling": YARN})]


@pytest.mark.parametrize("arch, more", SHAPES, ids=str)
def test_the_same_logits(arch, more, tok, tmp_path):
    model = tiny(arch, tok, **more)
    llm, ids = load(model, tok, tmp_path), [tok.end_id, *tok.encode(" ".join(TEXTS[:5]))][:200]
    llm.eval(ids)
    with torch.no_grad(): want = model(torch.tensor([ids]))[0].numpy()
    got = np.array(llm.scores[:len(ids)])
    assert np.abs(got - want).max() < 3e-3 * np.abs(want).max()
    assert (got.argmax(-1) == want.argmax(-1)).mean() > 0.99


def test_an_end_token_that_the_config_does_not_name(tok, tmp_path):
    llm = load(tiny("llama", tok, eos_token_id=None, bos_token_id=None), tok, tmp_path)
    assert llm.token_eos() == tok.end_id and llm.tokenize(b"Once") == tok.encode("Once")


REFUSED = [("qwen3", {"attention_bias": True}),
           ("qwen3", {"rope_scaling": LLAMA3}),
           ("qwen2", {"rope_scaling": LLAMA3}),
           ("llama", {"n_layer": 513, "d_model": 4, "n_head": 2})]


@pytest.mark.parametrize("arch, more", REFUSED, ids=str)
def test_what_is_refused_does_not_load(arch, more, tok, tmp_path, monkeypatch):
    "So the refusals can be dropped as soon as llama.cpp holds more."
    model = tiny(arch, tok, **more)
    with pytest.raises(ValueError, match="llama.cpp's"): check_gguf(model.config, tok)
    monkeypatch.setattr("gpt_nb.pretrained.check_gguf", lambda c, tok: None)
    export_gguf(model, tok, tmp_path / "model.gguf")
    code = ("import sys, llama_cpp\n"   # in a process of its own, which 513 layers end
            "llama_cpp.Llama(sys.argv[1], n_ctx=64, verbose=False, n_threads=1)")
    command = [sys.executable, "-c", code, str(tmp_path / "model.gguf")]
    assert subprocess.run(command, capture_output=True).returncode != 0
