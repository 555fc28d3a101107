"""Our folders in other programs, and theirs in ours: what a user does with `transformers`, `peft`,
int8 and a web server."""
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import json
import re
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt_nb.checkpoint import load_tokenizer, local_folder, save_tokenizer
from gpt_nb.data import tokenize
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.pretrained import QWEN_SPLIT, export
from gpt_nb.sampling import stream
from gpt_nb.tales import Tales
from gpt_nb.tokenizer import GPT2_SPLIT, BPETokenizer, CharTokenizer, WordTokenizer
from gpt_nb.training import Run, TrainConfig, train

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
ROOT = Path(__file__).parent.parent
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
def test_folders_that_say_nothing_of_the_first_token_open_too(name, tmp_path):
    tok, folder = load_tokenizer(name), local_folder(name)
    written = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    assert written["post_processor"]["type"] == "TemplateProcessing"
    assert tok.spec == written | dict(post_processor=None)
    tok.save(tmp_path)                                   # as chapter 01 writes it
    again = load_tokenizer(tmp_path)
    assert (again.spec, again.config) == (tok.spec, tok.config)
    text = CHINESE[0] if name == "tales-zh" else ENGLISH[0]
    assert again.encode(text) == tok.encode(text)
    save_tokenizer(again, tmp_path, tok.end_id)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


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
    for pad in ("[PAD]", ["<|pad|>"], {"content": 7}, 5, None):      # which are no tokens
        tok.config = {"eos_token": "<|end|>", "pad_token": pad}
        save_tokenizer(tok, tmp_path, tok.end_id)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        assert (theirs.pad_token, len(theirs)) == ("<|end|>", tok.vocab_size)


# ---- somebody's checkpoint: opened, trained on, opened by them again

def their_tokenizer(texts, folder):
    "Byte pairs as Qwen has them, made and written by others' libraries."
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    engine = Tokenizer(models.BPE())
    engine.normalizer, engine.decoder = normalizers.NFC(), decoders.ByteLevel()
    engine.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    engine.train_from_iterator(texts, trainer)
    tok = transformers.PreTrainedTokenizerFast(tokenizer_object=engine, eos_token="<|endoftext|>")
    tok.save_pretrained(folder)
    return tok


def their_folder(arch, folder, tied, dtype):
    "A model with more rows than its tokenizer has tokens, in several files."
    shape = dict(vocab_size=448, hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
    more = dict(num_key_value_heads=2, intermediate_size=96, max_position_embeddings=256)
    if arch == "gpt2": more = dict(n_positions=256)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(arch, **shape, **more, bos_token_id=None,
                                               eos_token_id=0, tie_word_embeddings=tied)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    model.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1


def their_loss(folder, texts):
    "What `transformers` says of texts, read from a folder alone."
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    tok.pad_token = tok.pad_token or tok.eos_token
    batch = tok(texts, padding=True, return_tensors="pt")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    labels = batch.input_ids.where(batch.attention_mask.bool(), torch.tensor(-100))
    with torch.no_grad(): return model.eval()(**batch, labels=labels).loss.item()


@pytest.mark.parametrize("arch, tied, dtype", [("gpt2", True, torch.float32),
                                               ("llama", False, torch.bfloat16),
                                               ("qwen2", True, torch.bfloat16),
                                               ("qwen3", False, torch.float32)])
def test_their_folder_trained_on_here_is_better_there(arch, tied, dtype, tmp_path):
    theirs, texts = tmp_path / "theirs", ENGLISH + CHINESE
    their_tok = their_tokenizer(texts, theirs)
    their_folder(arch, theirs, tied, dtype)
    before = their_loss(theirs, texts[::20])
    model, tok = GPT.from_pretrained(theirs, dtype=torch.float32), load_tokenizer(theirs)
    assert tok.encode(texts[0]) == their_tok(texts[0]).input_ids
    tokens = tokenize(texts, tok, progress=False)
    config = TrainConfig(steps=30, batch_size=8, lr=0.01)
    run = train(model, tokens, config, tok, tmp_path / "run", show=False)
    out = export(Run.open(tmp_path / "run"), "hf", tmp_path / "out")
    for folder in (tmp_path / "run", out):
        assert their_loss(folder, texts[::20]) < before - 1
        read = transformers.AutoTokenizer.from_pretrained(folder)
        assert read(texts[-1]).input_ids == [tok.end_id, *tok.encode(texts[-1])]
        opened = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        assert opened.config.vocab_size == 448 > tok.vocab_size
        assert opened.config.tie_word_embeddings == tied
        x = torch.tensor([read(texts[-1]).input_ids])
        with torch.no_grad(): a, b = opened.eval()(x).logits, run.model(x)
        assert (a - b).abs().max() < 1e-4 * a.abs().max()


# ---- their fine-tuning on our export

@pytest.fixture(scope="module")
def house(tmp_path_factory):
    "The house model as others open it, and stories it has not read."
    folder = tmp_path_factory.mktemp("others") / "out"
    export(Run.open("tales-en"), "hf", folder)
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tok(Tales(level=2).texts(20, seed=10**6), padding=True, return_tensors="pt")
    batch["labels"] = batch.input_ids.where(batch.attention_mask.bool(), torch.tensor(-100))
    return folder, tok, batch


def open_theirs(folder, kind="CausalLM", **more):
    opener = getattr(transformers, f"AutoModelFor{kind}")
    return opener.from_pretrained(folder, dtype=torch.float32, **more)


@pytest.mark.parametrize("arch", ["gpt2", "llama", "qwen3"])
def test_a_classifier_on_our_export_learns_from_padded_batches(arch, tmp_path):
    tok = BPETokenizer.train(ENGLISH + CHINESE, 400)
    row = dict(step=1, tokens=1, loss=2.0, val_loss=2.0, lr=0.0, tokens_per_second=1)
    run = Run(small(arch, tok), tok, TrainConfig(steps=1), [row])
    folder = export(run, "hf", tmp_path / "out")
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    model = open_theirs(folder, "SequenceClassification", num_labels=2)
    texts = [text[:n] for n, pair in enumerate(zip(ENGLISH, CHINESE), 20) for text in pair][:64]
    data = [dict(tok(text), labels=i % 2) for i, text in enumerate(texts)]
    args = transformers.TrainingArguments(
        tmp_path / "cls", max_steps=12, per_device_train_batch_size=16, learning_rate=1e-2,
        logging_steps=1, report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True)
    trainer = transformers.Trainer(model, args, train_dataset=data, processing_class=tok)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[0] > 0.5 and losses[-1] < 0.25
    trainer.save_model(tmp_path / "cls")
    again = open_theirs(tmp_path / "cls", "SequenceClassification").eval()
    with torch.no_grad():
        alone = torch.cat([again(**tok(text, return_tensors="pt")).logits for text in texts[:6]])
        sides = {}
        for side in ("right", "left"):
            batch = tok(texts[:6], padding=True, padding_side=side, return_tensors="pt")
            assert batch.attention_mask.min() == 0       # some rows are filled up
            sides[side] = again(**batch).logits
    assert (sides["right"] - alone).abs().max() < 1e-4
    assert (alone.argmax(1) == torch.tensor([0, 1] * 3)).all()
    if arch != "gpt2": assert (sides["left"] - alone).abs().max() < 1e-4   # positions turn


def ends_learned(folder, tok, collator, rows, **opened):
    "Whether the end token's row moved, and how likely the end is where the texts had it."
    model = open_theirs(folder, **opened)
    before = model.get_input_embeddings().weight[tok.eos_token_id].clone()
    args = transformers.TrainingArguments(
        folder.parent / "trainer", max_steps=30, per_device_train_batch_size=16,
        learning_rate=3e-3, report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True,
        logging_strategy="no")
    trainer = transformers.Trainer(model, args, train_dataset=rows, data_collator=collator,
                                   processing_class=tok)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    read = torch.tensor([rows[0]["input_ids"][:-1]])
    with torch.no_grad(): end = model.eval()(read).logits[0, -1].softmax(-1)[tok.eos_token_id]
    trainer.save_model(folder.parent / "trained")
    classifier = open_theirs(folder.parent / "trained", "SequenceClassification")
    assert classifier.config.pad_token_id == tok.pad_token_id        # noted all the same
    return not torch.equal(model.get_input_embeddings().weight[tok.eos_token_id], before), end


def test_the_end_is_learned_there_as_chapter_14_says(house):
    "On texts that end after one sentence: the collator for labels learns it, the usual one not."
    folder, tok, _ = house
    texts = [text.split(".")[0] + "." for text in Tales(level=2).texts(64, seed=5)]
    rows = [dict(tok(text + tok.eos_token)) for text in texts]
    assert all(row["input_ids"][0] == row["input_ids"][-1] == tok.eos_token_id for row in rows)
    usual = transformers.DataCollatorForLanguageModeling(tok, mlm=False)
    moved, end = ends_learned(folder, tok, usual, rows)
    assert not moved and end < 0.01
    rows = [row | {"labels": row["input_ids"]} for row in rows]
    better = transformers.DataCollatorForSeq2Seq(tok)
    moved, end = ends_learned(folder, tok, better, rows)
    assert not moved and end > 0.9                       # of Llama and Qwen a row is held still
    moved, end = ends_learned(folder, tok, better, rows, pad_token_id=None)
    assert moved and end > 0.9


def test_lora_on_our_export_merged_opens_here(house, tmp_path):
    peft = pytest.importorskip("peft")
    folder, tok, batch = house
    torch.manual_seed(0)
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    model = peft.get_peft_model(open_theirs(folder), lora)
    adapted = [w for w in model.parameters() if w.requires_grad]
    optimizer, losses = torch.optim.AdamW(adapted, 3e-3), []
    for _ in range(5):
        losses.append(model(**batch).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.995 * losses[0]
    model.save_pretrained(tmp_path / "lora")
    again = peft.PeftModel.from_pretrained(open_theirs(folder), tmp_path / "lora").eval()
    with torch.no_grad(): want = again(**batch).logits
    merged = again.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tok.save_pretrained(tmp_path / "merged")
    ours = GPT.from_pretrained(tmp_path / "merged")
    there = batch.attention_mask.bool()
    with torch.no_grad():
        assert (ours(batch.input_ids) - want)[there].abs().max() < 1e-3
        plain = GPT.from_pretrained(folder, dtype=torch.float32)(batch.input_ids)
    assert (plain - want)[there].abs().max() > 0.01
    text = ENGLISH[0]
    assert load_tokenizer(tmp_path / "merged").encode(text) == load_tokenizer(folder).encode(text)


def test_int8_by_torch_hardly_moves_the_loss(house):
    folder, tok, batch = house
    model = open_theirs(folder).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                        # torchao is its successor
        quantize = torch.ao.quantization.quantize_dynamic
        small = quantize(model, {torch.nn.Linear}, dtype=torch.qint8)
    kinds = {type(module).__module__ for module in small.modules()}
    assert any("quantized.dynamic" in kind for kind in kinds)
    with torch.no_grad(): before, after = model(**batch).loss, small(**batch).loss
    assert after != before and after < 1.04 * before


# ---- many clients at once

@pytest.fixture
def server(tmp_path, monkeypatch):
    "The server that chapter 14 prints, on a port of this machine."
    pytest.importorskip("fastapi", reason="pip install fastapi uvicorn")
    uvicorn = pytest.importorskip("uvicorn", reason="pip install fastapi uvicorn")
    page = json.loads((ROOT / "nbs" / "14_pretrained.ipynb").read_text("utf-8"))
    text = "\n".join("".join(cell["source"]) for cell in page["cells"])
    [code] = re.findall(r"```python\n(# serve\.py.*?)```", text, flags=re.S)
    monkeypatch.setenv("MODEL", "tales-both")
    names = {}
    exec(compile(code, "serve.py", "exec"), names)
    config = uvicorn.Config(names["app"], port=0, log_level="error")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while thread.is_alive() and not running.started: time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/write", names["model"], names["tok"]
    running.should_exit = True
    thread.join(20)


def test_the_server_gives_each_of_many_clients_the_text_of_its_seed(server):
    httpx = pytest.importorskip("httpx")
    url, model, tok = server
    asked = [dict(prompt=["Once", "从前", ""][seed % 3], seed=seed, tokens=30 + seed)
             for seed in range(6)]
    want = ["".join(stream(model, tok, a["prompt"], a["tokens"], seed=a["seed"])) for a in asked]
    assert len(set(want)) == 6

    def read(i):
        with httpx.stream("GET", url, params=asked[i], timeout=60) as answer:
            pieces = list(answer.iter_text())
        return "".join(pieces), len(pieces)

    with ThreadPoolExecutor(8) as clients: got = list(clients.map(read, list(range(6)) * 3))
    assert [text for text, _ in got] == want * 3
    assert max(pieces for _, pieces in got) > 5          # it came bit by bit
    refused = httpx.get(url, params=dict(prompt="Once", temperature=-1))
    assert refused.status_code == 400 and "temperature" in refused.json()["detail"]


def test_threads_that_write_with_one_model_do_not_disturb_each_other():
    "The tokenizer's cache empty, texts longer than the context, some readers gone half-way."
    tok = BPETokenizer.train(ENGLISH + CHINESE, 400)
    model = small("qwen3", tok, context=24)
    with torch.no_grad():
        for w in model.parameters(): w.mul_(4)           # so that one token changes the next

    def write(seed):
        text = CHINESE[seed][:9] if seed % 2 else ENGLISH[seed][:25]
        pieces = stream(model, tok, text, 60, seed=seed)
        if seed % 5 == 4: return next(pieces)            # closed before its end
        return "".join(pieces)

    want = [write(seed) for seed in range(15)]
    tok.cache.clear()
    with ThreadPoolExecutor(10) as pool: got = list(pool.map(write, list(range(15)) * 3))
    assert got == want * 3 and len(set(want)) == 15
    assert not model.training
