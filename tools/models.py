"""Train the house models, the small good models that chapters open at once and offline:
`python tools/models.py tales-en ...` (none named: all).

Each is trained by the library's own `train` from a seed, into runs/models/NAME (go on after a
stop by typing the same again), and written to gpt_nb/models/NAME in bfloat16 with a card."""
import argparse
import math
import platform
import re
import shutil
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from gpt_nb.checkpoint import save_tokenizer
from gpt_nb.cli import cache_folder, make_tokenizer
from gpt_nb.data import load_texts, longest_document, tokenize, world_of
from gpt_nb.emergence import share_that_holds, write_stories
from gpt_nb.evaluation import evaluate, floor, lines_to_cross
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.tales import LEVELS, Tales, lists_of
from gpt_nb.tokenizer import BPETokenizer
from gpt_nb.training import TrainConfig, check_new, train

ROOT = Path(__file__).parent.parent
SHAPE = dict(n_layer=4, d_model=128, n_head=8, d_head=32, tie_embeddings=False)
SETTINGS = dict(steps=16_000, batch_size=32, lr=0.015, muon_lr=0.006, eval_every=500, log_every=50,
                precision="bfloat16", compile=True)   # both: an update in half the time
TALES = dict(tokenizer="word", n_stories=580_000, shape=SHAPE, settings=SETTINGS)
BOTH = dict(data="tales:2+tales-zh:2", tokenizer="words:1800", n_stories=290_000,
            shape=SHAPE | dict(d_ff=320, tie_embeddings=True))
PYDOCS = dict(data="pydocs", tokenizer="bpe:2048", context=256,
              shape=dict(n_layer=4, d_model=128, n_head=4),
              settings=dict(steps=3_000, batch_size=8, lr=0.01, muon_lr=0.02, weight_decay=0.5,
                            eval_every=500, log_every=50))
GROWING = dict(data="tales", tokenizer="word", n_stories=100_000,
               shape=dict(n_layer=2, d_model=96, n_head=6, tie_embeddings=False),
               settings=dict(steps=3_000, batch_size=32, lr=0.02, muon_lr=0.01, eval_every=500,
                             keep=(50, 200, 800, 3000)))
SHORT = dict(data="tales+tales-zh", tokenizer="bpe:800", n_stories=50_000, context=192,
             shape=dict(n_layer=3, d_model=96, n_head=6, d_ff=256, tie_embeddings=False),
             settings=dict(steps=6_000, batch_size=32, lr=0.02, muon_lr=0.01, eval_every=500,
                           log_every=50))
MODELS = {"tales-en": TALES | dict(data="tales:2"),
          "tales-zh": TALES | dict(data="tales-zh:2", tokenizer="words:1300",
                                   shape=SHAPE | dict(tie_embeddings=True)),
          "tales-both": TALES | BOTH, "tales-short": SHORT, "pydocs": PYDOCS, "growing": GROWING}
CARD = """# {name}

A house model of gpt_nb: {params:,} parameters, trained on `{data}` by
`python tools/models.py {name}`.

| | |
|---|---|
{rows}

Nothing but text told or shipped by this project and by Python itself went into it; Apache-2.0.
"""


def cut_at_words(texts: Iterable[str], level: int) -> list[str]:
    "Texts with a line for each Chinese word of the world: no token learned from them joins two."
    lists = lists_of(LEVELS[level])
    words = {entry.zh for entry in chain.from_iterable(lists.values())} | {"她", "他"}
    words |= {f"{entry.zh}的" for kind in ("look", "trait") for entry in lists[kind]}
    known = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))))
    return [known.sub(r"\n\g<0>\n", text) for text in texts]


def learn_words(data: str, vocab_size: int, n: int = 6_000):  # BPETokenizer
    "Byte-level BPE with a token for nearly every word of the worlds, Chinese ones too."
    worlds = [world_of(name) for name in data.split("+")]
    texts = chain.from_iterable(cut_at_words(w.texts(n), w.level) for w in worlds)
    return BPETokenizer.train(texts, vocab_size)


def prepare(data: str, tokenizer: str, n_stories: int = 100_000):  # (tok, tokens)
    "Texts as tokens, and the tokenizer trained on them."
    texts = load_texts(data, n_stories=n_stories)
    kind, _, size = tokenizer.partition(":")
    tok = learn_words(data, int(size)) if kind == "words" else make_tokenizer(tokenizer, texts)
    return tok, tokenize(texts, tok, cache_folder())


def choose(work: dict, kind: str, about: str) -> list[str]:
    "The names given on the command line, or all."
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=raw)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(work))
    names = parser.parse_args().names or list(work)
    unknown = [name for name in names if name not in work]
    if unknown: parser.error(f"no {kind} {', '.join(unknown)}: there are {', '.join(work)}")
    return names


def fit(name: str, spec: dict, tok, tokens):  # Run
    "Train from the seed, or go on where it was stopped."
    out, world = ROOT / "runs" / "models" / name, world_of(spec["data"])
    context = spec.get("context") or longest_document(tokens)
    torch.manual_seed(0)
    ends = dict(bos_token_id=tok.end_id, eos_token_id=tok.end_id)
    model = GPT(GPTConfig("qwen3", tok.vocab_size, context, **ends, **spec["shape"]))
    best = floor(world, tokens.val, tok.end_id) if world else None
    resume = (out / "state").is_dir()
    if not resume: check_new(out)
    return train(model, tokens, TrainConfig(**spec["settings"]), tok, out=out, resume=resume,
                 floor=best, options=dict(data=spec["data"]))


def say_what_holds(world: Tales, texts: list[str]) -> str:
    "What holds of stories, in words."
    holds = share_that_holds(world, texts)
    return (f"{holds.sentences:.1%} of sentences, {holds.facts:.1%} of facts, "
            f"{holds.story:.1%} of whole stories hold")


def above(loss: float, best: float) -> str: return f"{loss / best - 1:.1%} above"


def measure_each(model: GPT, tok, data: str) -> dict[str, str]:
    "Of a model of several worlds: each one's unseen stories, and those it tells in its language."
    told, rows, n = write_stories(model, tok, 1000, seed=0), {}, 300
    for world in map(world_of, data.split("+")):
        ids = [tok.end_id]
        for text in world.texts(n, seed=10**9): ids += [*tok.encode(text), tok.end_id]
        ids, coin = np.array(ids), n * math.log(2)   # one coin toss a story for its language
        best = floor(world, ids, tok.end_id) + coin / (len(ids) - 1)
        loss = evaluate(model, ids).loss
        own = [text for text in told if text.isascii() == (world.lang == "en")]
        rows[f"stories, {world.lang}"] = (f"{loss:.4f} nats a token, {above(loss, best)} "
                                          f"the best possible {best:.4f}")
        rows[f"of {len(own)} told, {world.lang}"] = say_what_holds(world, own)
    return rows


def measure(model: GPT, tok, tokens, data: str, best: float | None) -> dict[str, str]:
    "What the card says of the model as it is stored."
    result = evaluate(model, tokens, tok)
    rows = {"validation loss": f"{result.loss:.4f} nats a token",
            "bits per byte": f"{result.bits_per_byte:.4f}", "accuracy": f"{result.accuracy:.2%}"}
    if best:
        gap = above(result.loss, best)
        rows["best possible"] = f"{best:.4f} nats a token: the model is {gap} it"
        told = write_stories(model, tok, 1000, seed=0)
        rows["of 1,000 stories"] = say_what_holds(world_of(data), told)
    elif "+" in data: rows |= measure_each(model, tok, data)
    elif data == "pydocs":
        lines = lines_to_cross(tokens, tok, range(2, 9))
        rows |= {line: f"{bits:.4f} bits a byte" for line, bits in lines.items()}
    return rows


def store(model: GPT, tok, folder: Path) -> GPT:
    "Write a model in bfloat16, and open what was written."
    model.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(tok, folder, tok.end_id)
    return GPT.from_pretrained(folder, dtype=torch.float32).eval()


def make(name: str) -> None:
    "Train one model and put it into the package."
    spec, folder = MODELS[name], ROOT / "gpt_nb" / "models" / name
    tok, tokens = prepare(spec["data"], spec["tokenizer"], spec.get("n_stories", 1))
    run = fit(name, spec, tok, tokens)
    shutil.rmtree(folder, ignore_errors=True)
    steps = spec["settings"].get("keep", ())
    for step in steps:
        copy = GPT.from_pretrained(run.folder / "checkpoints" / f"{step:06d}")
        store(copy, tok, folder / f"{step:06d}")
    model = run.model if steps else store(run.model, tok, folder)
    for record in ("training.json", "log.jsonl"): shutil.copy(run.folder / record, folder)
    rows = {"updates": f"{run.config.steps:,}", "tokens read": f"{run.history[-1]['tokens']:,}",
            "seconds": f"{run.seconds:,.0f}",
            "machine": f"{torch.get_num_threads()} threads of {platform.machine()}"}
    rows |= measure(model, tok, tokens, spec["data"], run.floor)
    table = "\n".join(f"| {k} | {v} |" for k, v in rows.items())
    card = CARD.format(name=name, params=model.n_params, data=spec["data"], rows=table)
    (folder / "README.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    for name in choose(MODELS, "model", __doc__): make(name)
