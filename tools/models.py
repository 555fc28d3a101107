"""Train the house models, the small good models that chapters open at once and offline: `python tools/models.py tales-en ...` (none named: all).

Each is trained by the library's own `train` from a seed, into runs/models/NAME (go on after a stop by typing the same again),
and written to gpt_nb/models/NAME in bfloat16 with a card."""
import argparse
import math
import os
import platform
import shutil
from pathlib import Path

import numpy as np
import torch

from gpt_nb.cli import cache_folder, make_tokenizer
from gpt_nb.data import load_texts, longest_document, tokenize, world_of
from gpt_nb.evaluation import evaluate, floor, lines_to_cross, share_that_holds, write_stories
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.training import TrainConfig, check_new, train

ROOT = Path(__file__).parent.parent
TALES = dict(tokenizer="word", n_stories=300_000, shape=dict(n_layer=4, d_model=128, n_head=8, d_head=32, tie_embeddings=False),
             settings=dict(steps=9_000, batch_size=32, lr=0.015, muon_lr=0.01, eval_every=500, log_every=50))
SMALL = dict(n_layer=2, d_model=96, n_head=6, tie_embeddings=False)
MODELS = {
    "tales-en": TALES | dict(data="tales:2"),
    "tales-zh": TALES | dict(data="tales-zh:2", tokenizer="bpe:800"),
    "tales-both": TALES | dict(data="tales:2+tales-zh:2", tokenizer="bpe:1000", shape=TALES["shape"] | dict(d_ff=320, tie_embeddings=True),
                               settings=TALES["settings"] | dict(steps=6_000)),
    "pydocs": dict(data="pydocs", tokenizer="bpe:2048", context=256, shape=dict(n_layer=4, d_model=128, n_head=4),
                   settings=dict(steps=3_000, batch_size=8, lr=0.01, muon_lr=0.02, weight_decay=0.5, eval_every=500, log_every=50)),
    "growing": dict(data="tales", tokenizer="word", n_stories=100_000, shape=SMALL,
                    settings=dict(steps=3_000, batch_size=32, lr=0.02, muon_lr=0.01, eval_every=500, keep=(50, 200, 800, 3000))),
}
CARD = """# {name}

A house model of gpt_nb: {params:,} parameters, trained on `{data}` by `python tools/models.py {name}`.

| | |
|---|---|
{rows}

Nothing but text told or shipped by this project and by Python itself went into it; Apache-2.0.
"""


def prepare(spec: dict):  # (tok, tokens)
    "The texts of a model as tokens."
    texts = load_texts(spec["data"], n_stories=spec.get("n_stories", 1))
    tok = make_tokenizer(spec["tokenizer"], texts)
    return tok, tokenize(texts, tok, cache_folder())


def fit(name: str, spec: dict, tok, tokens):  # Run
    "Train from the seed, or go on where it was stopped."
    out, world = ROOT / "runs" / "models" / name, world_of(spec["data"])
    context = spec.get("context") or longest_document(tokens)
    torch.manual_seed(0)
    model = GPT(GPTConfig("qwen3", tok.vocab_size, context, bos_token_id=tok.end_id, eos_token_id=tok.end_id, **spec["shape"]))
    best = floor(world, tokens.val, tok.end_id) if world else None
    resume = (out / "state").is_dir()
    if not resume: check_new(out)
    return train(model, tokens, TrainConfig(**spec["settings"]), tok, out=out, resume=resume, floor=best, options=dict(data=spec["data"]))


def measure_each(model: GPT, tok, data: str) -> dict[str, str]:
    "Of a model of several worlds: each world's unseen stories, and the stories told in its language."
    told, rows = write_stories(model, tok, 1000, seed=0), {}
    for world in map(world_of, data.split("+")):
        ids = np.array([tok.end_id, *(i for text in world.texts(300, seed=10**9) for i in (*tok.encode(text), tok.end_id))])
        best = floor(world, ids, tok.end_id) + 300 * math.log(2) / (len(ids) - 1)   # and one coin toss a story for its language
        loss, own = evaluate(model, ids).loss, [text for text in told if text.isascii() == (world.lang == "en")]
        holds = share_that_holds(world, own)
        rows[f"stories, {world.lang}"] = f"{loss:.4f} nats a token, {loss / best - 1:.1%} above the best possible {best:.4f}"
        rows[f"of {len(own)} told, {world.lang}"] = f"{holds.sentences:.1%} of sentences, {holds.facts:.1%} of facts, {holds.story:.1%} of whole stories hold"
    return rows


def measure(model: GPT, tok, tokens, data: str, best: float | None) -> dict[str, str]:
    "What the card says of the model as it is stored."
    result = evaluate(model, tokens, tok)
    rows = {"validation loss": f"{result.loss:.4f} nats a token", "bits per byte": f"{result.bits_per_byte:.4f}", "accuracy": f"{result.accuracy:.2%}"}
    if best:
        rows["best possible"] = f"{best:.4f} nats a token: the model is {result.loss / best - 1:.1%} above it"
        holds = share_that_holds(world_of(data), write_stories(model, tok, 1000, seed=0))
        rows["of 1,000 stories"] = f"{holds.sentences:.1%} of sentences, {holds.facts:.1%} of facts, {holds.story:.1%} of whole stories hold"
    elif "+" in data: rows |= measure_each(model, tok, data)
    else:
        rows |= {line: f"{bits:.4f} bits a byte" for line, bits in (lines_to_cross(tokens, tok, range(2, 9)) if data == "pydocs" else {}).items()}
    return rows


def store(model: GPT, tok, folder: Path) -> GPT:
    "Write a model in bfloat16, and open what was written."
    model.to(torch.bfloat16).save_pretrained(folder)
    tok.save(folder)
    return GPT.from_pretrained(folder, dtype=torch.float32).eval()


def make(name: str) -> None:
    "Train one model and put it into the package."
    spec, folder = MODELS[name], ROOT / "gpt_nb" / "models" / name
    tok, tokens = prepare(spec)
    run = fit(name, spec, tok, tokens)
    shutil.rmtree(folder, ignore_errors=True)
    steps = spec["settings"].get("keep", ())
    for step in steps: store(GPT.from_pretrained(run.folder / "checkpoints" / f"{step:06d}"), tok, folder / f"{step:06d}")
    model = run.model if steps else store(run.model, tok, folder)
    for record in ("training.json", "log.jsonl"): shutil.copy(run.folder / record, folder)
    rows = {"updates": f"{run.config.steps:,}", "tokens read": f"{run.history[-1]['tokens']:,}", "seconds": f"{run.seconds:,.0f}",
            "machine": f"{torch.get_num_threads()} threads of {platform.machine()}"} | measure(model, tok, tokens, spec["data"], run.floor)
    card = CARD.format(name=name, params=model.n_params, data=spec["data"], rows="\n".join(f"| {k} | {v} |" for k, v in rows.items()))
    (folder / "README.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS))
    names = parser.parse_args().names or list(MODELS)
    if unknown := set(names) - set(MODELS): parser.error(f"no model {', '.join(unknown)}: there are {', '.join(MODELS)}")
    for name in names: make(name)
