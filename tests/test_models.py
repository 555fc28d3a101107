"The house models: they open by their names, are as good as their records say, and small."
import importlib.util
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch

import gpt_nb
from gpt_nb.chat import as_messages, judge, replies, talk
from gpt_nb.checkpoint import load_tokenizer, local_folder
from gpt_nb.data import load_texts, tokenize, world_of
from gpt_nb.emergence import share_that_holds, write_stories
from gpt_nb.evaluation import evaluate, floor, lines_to_cross
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.tales import Tales
from gpt_nb.tokenizer import BPETokenizer
from gpt_nb.training import Run

HOUSE = Path(gpt_nb.__file__).parent / "models"
TALES = {"tales-en": "tales:2", "tales-zh": "tales-zh:2"}
ABOVE_FLOOR = {"tales-en": 0.03, "tales-zh": 0.03}   # nats over the best possible, as a share
HOLD = {"tales-en": (0.93, 0.45), "tales-zh": (0.93, 0.36)}   # facts, whole stories: at least


def unseen(data: str, tok, n: int = 300) -> np.ndarray:
    "Stories that no model was trained on, as ids."
    ids = [tok.end_id]
    for text in world_of(data).texts(n, seed=10**9): ids += [*tok.encode(text), tok.end_id]
    return np.array(ids)


def test_they_are_small():
    sizes = {p.relative_to(HOUSE): p.stat().st_size for p in HOUSE.rglob("*") if p.is_file()}
    weights = {p: size for p, size in sizes.items() if p.suffix == ".safetensors"}
    assert weights and max(weights.values()) <= 3e6 and sum(sizes.values()) <= 15.5e6
    assert not [p for p in sizes if p.suffix not in (".safetensors", ".json", ".jsonl", ".md")]
    assert all((folder / "README.md").is_file() for folder in HOUSE.iterdir())


@pytest.mark.parametrize("name", [name for name in TALES if (HOUSE / name).is_dir()])
def test_tales_models_are_near_the_floor(name):
    run, data = Run.open(name), TALES[name]
    ids = unseen(data, run.tok)
    result, best = evaluate(run.model, ids, run.tok), floor(world_of(data), ids, run.tok.end_id)
    assert result.loss == pytest.approx(run.val_loss, rel=0.02)
    assert result.loss < (1 + ABOVE_FLOOR[name]) * best
    holds = share_that_holds(world_of(data), write_stories(run.model, run.tok, 200, seed=5))
    facts, story = HOLD[name]
    assert holds.sentences > 0.97 and holds.facts > facts and holds.story > story


@pytest.mark.parametrize("name, data", [("tales-both", "tales:2"), ("tales-both", "tales-zh:2"),
                                        ("tales-short", "tales"), ("tales-short", "tales-zh")])
def test_one_model_tells_in_both_languages(name, data):
    run = Run.open(name)
    ids, world = unseen(data, run.tok), world_of(data)
    coin_tosses = 300 * np.log(2)   # one a story, for its language
    best = floor(world, ids, run.tok.end_id) + coin_tosses / (len(ids) - 1)
    assert evaluate(run.model, ids).loss < 1.12 * best
    stories = write_stories(run.model, run.tok, 200, seed=5)
    told = [text for text in stories if text.isascii() == (world.lang == "en")]
    assert 60 < len(told) < 140 and share_that_holds(world, told).sentences > 0.95


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_model_that_talks_answers_and_refuses(lang):
    run, asked = Run.open("tales-chat"), []
    for seed in range(4_000_000, 4_000_040):
        text, turns = talk(Tales(lang), seed)
        asked += [(as_messages(text, turns[:i + 1])[:-1], turn) for i, turn in enumerate(turns)]
    said = replies(run.model, run.tok, [messages for messages, _ in asked])
    verdicts = [(turn.fact is not None, judge(a.text, turn)) for a, (_, turn) in zip(said, asked)]
    answers, others = ([v for can, v in verdicts if can is wanted] for wanted in (True, False))
    assert len(answers) > 40 and answers.count("right") >= 0.9 * len(answers)   # by chance: 0.1
    assert len(others) > 20 and others.count("refused") >= 0.85 * len(others)


def test_the_growing_model_gets_better():
    folders = sorted(p for p in (HOUSE / "growing").iterdir() if p.is_dir())
    ids = unseen("tales", load_tokenizer("growing/003000"), 100)
    names = [f"growing/{p.name}" for p in folders]
    models = [GPT.from_pretrained(name, dtype=torch.float32) for name in names]
    losses = [evaluate(model, ids).loss for model in models]
    assert len(folders) == 4 and losses == sorted(losses, reverse=True)


@pytest.mark.skipif(not (HOUSE / "pydocs").is_dir(), reason="no model of the manual yet")
def test_the_model_of_the_manual_crosses_the_lines():
    run = Run.open("pydocs")
    tokens = tokenize(load_texts("pydocs"), run.tok, progress=False)
    bits = evaluate(run.model, tokens, run.tok).bits_per_byte
    assert bits < min(lines_to_cross(tokens, run.tok, range(2, 9)).values())


def test_names_do_not_lead_out_of_the_house(tmp_path):
    assert local_folder("growing/000200") == HOUSE / "growing" / "000200"
    assert local_folder(tmp_path) == tmp_path
    for name in ("../models/growing", "growing/../growing", "growing/", "/growing", "models",
                 "growing/x"):
        assert local_folder(name) is None, name


def test_a_folder_comes_before_a_house_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "growing").mkdir()
    assert local_folder("growing") == Path("growing")


FOLDERS = sorted(path.parent for path in HOUSE.rglob("tokenizer.json"))
TEXTS = ["Once there was a kind girl.", "从前花园里", "the end", ""]


def reads_as_in_training(folder, tok):
    "Whether `transformers` puts the end token before a text, and knows what pads a batch."
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder)
    for text in TEXTS: assert theirs(text).input_ids == [tok.end_id, *tok.encode(text)]
    for name in ("config.json", "generation_config.json"):
        pad = json.loads((folder / name).read_text("utf-8"))["pad_token_id"]
        assert pad == theirs.pad_token_id == tok.end_id


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(HOUSE)))
def test_others_read_texts_as_in_training(folder):
    tok = load_tokenizer(folder)
    assert tok.encode("") == [] and tok.end_id not in tok.encode(TEXTS[0])   # here nothing is added
    reads_as_in_training(folder, tok)


def test_a_model_is_stored_so_that_others_read_texts_as_in_training(tmp_path):
    path = HOUSE.parents[1] / "tools" / "models.py"
    spec = importlib.util.spec_from_file_location("models", path)
    tools = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tools)
    tok = BPETokenizer.train(Tales("zh").texts(20), 300)
    ends = dict(bos_token_id=tok.end_id, eos_token_id=tok.end_id)
    tools.store(GPT(GPTConfig("qwen3", tok.vocab_size, 16, 1, 2, 16, **ends)), tok, tmp_path)
    reads_as_in_training(tmp_path, tok)
