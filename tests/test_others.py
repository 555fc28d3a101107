"""Our folders in other programs, and theirs in ours: what a user does with `transformers`, `peft`,
int8 and a web server."""
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import json
import warnings

import numpy as np
import pytest
import torch

from gpt_nb.checkpoint import load_tokenizer, local_folder, save_tokenizer
from gpt_nb.data import tokenize
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.tales import Tales
from gpt_nb.tokenizer import GPT2_SPLIT, BPETokenizer, CharTokenizer, WordTokenizer
from gpt_nb.training import Run, TrainConfig, train

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
ENGLISH, CHINESE = Tales().texts(60), Tales("zh").texts(60)
KINDS = {"char": CharTokenizer.train,
         "word": lambda texts: WordTokenizer.train(texts, 400),
         "bpe": lambda texts: BPETokenizer.train(texts, 400),
         "gpt-2": lambda texts: BPETokenizer.train(texts, 400, split=GPT2_SPLIT)}


def small(arch, tok, context=256, **more):
    "A random model for a tokenizer."
    torch.manual_seed(0)
    ends = dict(bos_token_id=tok.end_id, eos_token_id=tok.end_id)
    return GPT(GPTConfig(arch, tok.vocab_size, context, 2, 2, 32, **ends | more)).eval()


# ---- the token before a text

@pytest.mark.parametrize("texts", [ENGLISH, CHINESE], ids=["en", "zh"])
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_of_a_run_folder_the_ids_that_training_saw(kind, texts, tmp_path):
    tok = KINDS[kind](texts)
    tokens = tokenize(texts, tok, val=0, progress=False)
    before = tok.spec, tok.config, tok.encode(texts[0])
    config = TrainConfig(steps=2, batch_size=2)
    train(small("llama", tok), tokens, config, tok, tmp_path / "run", show=False)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "run")
    seen = np.array([i for text in texts for i in theirs(text).input_ids] + [tok.end_id])
    assert (seen == tokens.train).all()                  # all of it, to the last token
    assert theirs.decode(theirs(texts[0]).input_ids, skip_special_tokens=True) == texts[0]
    again = load_tokenizer(tmp_path / "run")
    assert (again.spec, again.config, again.encode(texts[0])) == before
    padded = theirs([texts[0], texts[0][:9]], padding=True)
    assert padded.input_ids[1][-1] == tok.end_id and not padded.attention_mask[1][-1]
    for name in ("config.json", "generation_config.json"):
        fields = json.loads((tmp_path / "run" / name).read_text())
        assert fields["pad_token_id"] == tok.end_id == theirs.pad_token_id


@pytest.mark.parametrize("name", ["tales-en", "tales-zh", "pydocs", "growing/000200"])
def test_folders_that_say_nothing_of_the_first_token_open_as_before(name, tmp_path):
    tok, spec = load_tokenizer(name), json.loads((local_folder(name) / "tokenizer.json").read_text())
    assert tok.spec == spec
    save_tokenizer(tok, tmp_path, tok.end_id)
    again = load_tokenizer(tmp_path)
    assert (again.spec, again.config) == (tok.spec, tok.config)
    text = CHINESE[0] if name == "tales-zh" else ENGLISH[0]
    assert again.encode(text) == tok.encode(text)


@pytest.mark.parametrize("kind", KINDS)
def test_what_transformers_wrote_again_opens(kind, tmp_path):
    "With the padding and truncation that were last in use noted in it."
    tok = KINDS[kind](ENGLISH)
    small("qwen3", tok).save_pretrained(tmp_path / "ours")
    save_tokenizer(tok, tmp_path / "ours", tok.end_id)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    theirs(ENGLISH[:2], padding=True, truncation=True, max_length=20)
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_tokenizer(tmp_path / "theirs")
    for text in ENGLISH[:5]: assert again.encode(text) == tok.encode(text)
    assert again.end_id == tok.end_id


def test_the_token_before_a_text_must_be_one(tmp_path):
    tok = BPETokenizer.train(ENGLISH, 300)
    with pytest.raises(ValueError, match="begin is 5, no special token"):
        save_tokenizer(tok, tmp_path, 5)
    assert not list(tmp_path.iterdir())
    save_tokenizer(tok, tmp_path, None)                  # none: then none
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("Once").input_ids == tok.encode("Once")


def test_the_author_s_pad_token_stays(tmp_path):
    tok = BPETokenizer.train(ENGLISH, 300, ["<|end|>", "<|pad|>"])
    small("llama", tok).save_pretrained(tmp_path)
    flags = {"__type": "AddedToken", "content": "<|pad|>", "lstrip": False, "rstrip": False}
    for pad in ("<|pad|>", flags):
        tok.config = {"eos_token": "<|end|>", "pad_token": pad, "add_bos_token": False}
        save_tokenizer(tok, tmp_path, tok.end_id)
        assert transformers.AutoTokenizer.from_pretrained(tmp_path).pad_token == "<|pad|>"
        config = transformers.AutoConfig.from_pretrained(tmp_path)
        assert config.pad_token_id == tok.special_tokens["<|pad|>"]
    tok.config = {"eos_token": "<|end|>", "pad_token": "[PAD]"}      # which is no token
    save_tokenizer(tok, tmp_path, tok.end_id)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.pad_token, len(theirs)) == ("<|end|>", tok.vocab_size)
