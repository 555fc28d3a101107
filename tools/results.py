"""Regenerate the measurements that take longer than a notebook may: `python tools/results.py ladder emergence code`.

Each writes nbs/results/NAME.json from seeds 0, 1 and 2; the chapters draw it and assert what they say of it.
What stands in that file already is kept, so that a stopped measurement goes on; take the file away to measure anew."""
import argparse
import json
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from gpt_nb.cli import cache_folder, make_tokenizer
from gpt_nb.data import load_texts, longest_document, tokenize, world_of
from gpt_nb.evaluation import PythonHolds, check_python, counted_rungs, evaluate, floor, share_that_holds, trained_rungs, write_functions, write_stories
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.ngram import NGram, bits_per_byte
from gpt_nb.training import TrainConfig, train

RESULTS = Path(__file__).parent.parent / "nbs" / "results"
SEEDS = (0, 1, 2)
LADDER = {"tales": dict(tokenizer="word", batch_size=32, steps=2400), "tales-zh": dict(tokenizer="word", batch_size=32, steps=2400),
          "pydocs": dict(tokenizer="bpe:2048", context=128, batch_size=16, steps=1200)}
GROW = {"tales": "bpe:340", "tales-zh": "char"}   # tokens smaller than words, so that words have to be learned too
KEEP = (10, 20, 40, 70, 100, 150, 220, 320, 460, 680, 1000, 1400, 2000)   # updates after which the growing model is looked at

KEEP_CODE = (5, 10, 20, 40, 80, 160, 320, 640, 1280)


def round_all(x, digits: int = 5):
    "Numbers as short as they mean something."
    if isinstance(x, float): return round(x, digits)
    if isinstance(x, dict): return {k: round_all(v) for k, v in x.items()}
    return [round_all(v) for v in x] if isinstance(x, (list, tuple)) else x


def write(name: str, content: dict) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(round_all(content), ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def so_far(name: str) -> dict:
    "What an earlier run has measured."
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@lru_cache(1)
def corpus(data: str, tokenizer: str, n_stories: int = 100_000):  # (tok, tokens)
    texts = load_texts(data, n_stories=n_stories)
    tok = make_tokenizer(tokenizer, texts)
    return tok, tokenize(texts, tok, cache_folder())


def ladder() -> None:
    "Bits per byte of every rung, on three corpora."
    result = so_far("ladder")
    for data, spec in LADDER.items():
        (tok, tokens), world = corpus(data, spec["tokenizer"]), world_of(data)
        context = spec.get("context") or longest_document(tokens)
        if data not in result:
            best = bits_per_byte(floor(world, tokens.val, tok.end_id), tokens.val[1:], tok) if world else None
            row = (len(tokens.train) - 1) / (int((tokens.train == tok.end_id).sum()) - 1) if world else context
            result[data] = dict(rungs=[dict(r._asdict(), seed=None) for r in counted_rungs(tokens, tok)], floor=best,
                                tokens_read=round(row * spec["steps"] * spec["batch_size"]), train_tokens=len(tokens.train))
        for seed in set(SEEDS) - {r["seed"] for r in result[data]["rungs"]}:
            config = TrainConfig(steps=spec["steps"], batch_size=spec["batch_size"], lr=0.01, muon_lr=0.01, eval_every=10**6, seed=seed)
            result[data]["rungs"] += [dict(r._asdict(), seed=seed) for r in trained_rungs(tokens, tok, config, context)]
            write("ladder", result)


def look(model: GPT, tok, tokens, world, step: int, read: int) -> dict:
    "How far a model has come: its loss, what holds of 200 stories, one of them."
    texts = write_stories(model, tok, 200, seed=0)
    return dict(step=step, tokens=read, loss=evaluate(model, tokens.val[:30_000]).loss, sample=texts[0], **share_that_holds(world, texts)._asdict())


def along_the_way(model: GPT, tokens, config: TrainConfig, tok) -> Iterator[tuple[int, int, GPT]]:
    "Train once: (updates, tokens read, the model then) of each copy kept."
    with tempfile.TemporaryDirectory() as folder:
        run = train(model, tokens, config, tok, out=Path(folder) / "run")
        read = {row["step"]: row["tokens"] for row in run.history}
        for step in config.keep: yield step, read[step], GPT.from_pretrained(run.folder / "checkpoints" / f"{step:06d}").eval()


def grow(data: str, seed: int) -> list[dict]:
    "One training run, looked at along the way."
    (tok, tokens), world = corpus(data, GROW[data]), world_of(data)
    torch.manual_seed(seed)
    sizes = dict(vocab_size=tok.vocab_size, context=longest_document(tokens), bos_token_id=tok.end_id, eos_token_id=tok.end_id)
    config = TrainConfig(steps=KEEP[-1], batch_size=32, lr=0.02, muon_lr=0.01, eval_every=10**6, seed=seed, keep=KEEP, log_every=10)
    copies = along_the_way(GPT(GPTConfig.from_depth(2, tie_embeddings=False, **sizes)), tokens, config, tok)
    return [look(model, tok, tokens, world, step, read) for step, read, model in copies]


def counted(data: str, n: int) -> dict:
    "What a Kneser-Ney model of order n writes after reading the same stories."
    (tok, tokens), world = corpus(data, GROW[data]), world_of(data)
    gram = NGram(n).fit(tokens.train, tok.vocab_size, end_id=tok.end_id)
    texts = tok.decode(gram.sample(60_000, [tok.end_id])).split("<|end|>")[1:-1][:500]
    return dict(n=n, loss=float(-gram.log_probs(tokens.val)[1:].mean()), stories=len(texts), **share_that_holds(world, texts)._asdict())


def emergence() -> None:
    "Words, sentences, stories against tokens read; counting beside it."
    result = so_far("emergence")
    for data in GROW:
        if data not in result:
            tok, tokens = corpus(data, GROW[data])
            result[data] = dict(runs=[], counting=[counted(data, n) for n in (2, 3, 5, 7)], floor=floor(world_of(data), tokens.val, tok.end_id))
        for seed in SEEDS[len(result[data]["runs"]):]:
            result[data]["runs"].append(grow(data, seed))
            write("emergence", result)


def read_code(seed: int) -> list[dict]:
    "One training run on Python source, looked at along the way: what holds of the functions it writes."
    tok, tokens = corpus("pycode", "bpe:2048")
    torch.manual_seed(seed)
    sizes = dict(vocab_size=tok.vocab_size, context=256, bos_token_id=tok.end_id, eos_token_id=tok.end_id)
    config = TrainConfig(steps=KEEP_CODE[-1], batch_size=8, lr=0.01, muon_lr=0.02, eval_every=10**6, seed=seed, keep=KEEP_CODE, log_every=5)
    result = []
    for step, read, model in along_the_way(GPT(GPTConfig.from_depth(3, **sizes)), tokens, config, tok):
        functions = write_functions(model, tok, 200, seed=0)
        holds = PythonHolds(*np.mean([check_python(f) for f in functions], axis=0).tolist()) if functions else PythonHolds(0, 0, 0)
        result.append(dict(step=step, tokens=read, bits=evaluate(model, tokens.val[:100_000], tok).bits_per_byte, whole=len(functions) / 200,
                           sample=next(iter(functions), "")[:600], **holds._asdict()))
    return result


def code() -> None:
    "Brackets, grammar and names of Python against tokens read."
    result = so_far("code") or dict(runs=[])
    for seed in SEEDS[len(result["runs"]):]:
        result["runs"].append(read_code(seed))
        write("code", result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="ladder, emergence, code (none named: all)")
    work = dict(ladder=ladder, emergence=emergence, code=code)
    names = parser.parse_args().names or list(work)
    if unknown := set(names) - set(work): parser.error(f"no measurement {unknown}: there are {list(work)}")
    for name in names: work[name]()
