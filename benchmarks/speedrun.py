"""Time to the loss of nanoGPT's recipe for a CPU: the recipe of chapter 21 beside it.

On `pydocs` the whole speedrun runs once for each of three seeds, and the reference, rebuilt from
our own parts, is timed in turn with it. With `--nanogpt DIR`, a checkout that holds
data/shakespeare_char/input.txt, the same on TinyShakespeare beside nanoGPT's own model and
optimizer: their 2,000 updates by the pace of a few, for all cost the same.
"""
import importlib.util
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from frame import Options, once, row, threads

from gpt_nb.data import Batches, Tokens
from gpt_nb.speedrun import CONTEXT, REFERENCE, Lap, fastest, race, race_text, reference, update

SEEDS = (0, 1, 2)
UPDATES = 10      # of the peer, in one measurement
SHAKESPEARE = Path("data") / "shakespeare_char" / "input.txt"
TARGET = 1.898    # nanoGPT's recipe on the whole validation split of TinyShakespeare


def rows(options: Options) -> Iterator[dict]:
    "One row for each text and number of threads."
    if options.device != "cpu": return
    for n in (1, 2):
        with threads(n):
            tok, tokens = race_text("pydocs")
            yield compare("pydocs", tokens, tok.vocab_size, rebuilt(tokens, tok.vocab_size),
                          "the recipe rebuilt", n)
            if options.nanogpt is None: continue
            tok, tokens = race_text(str(options.nanogpt / SHAKESPEARE))
            peer = nanogpt(options.nanogpt, tokens, tok.vocab_size)
            yield compare("TinyShakespeare", tokens, tok.vocab_size, peer, "nanoGPT", n, TARGET)


def compare(name: str, tokens: Tokens, vocab_size: int, peer: Callable, peer_name: str, n: int,
            target: float | None = None) -> dict:
    "Race, time the peer, race again: medians of both."
    peer()
    ends, paces = [], []
    for seed in SEEDS:
        paces.append(once(peer))
        *_, end = race(fastest(vocab_size, seed), tokens)
        ends.append(end)
    return in_a_row(name, ends, paces, peer_name, n, target)


def in_a_row(name: str, ends: list[Lap], paces: list, peer_name: str, n: int,
             target: float | None) -> dict:
    "Seconds on the clock; of work in the note, with the losses."
    share = REFERENCE.steps / UPDATES
    work = statistics.median(lap.cpu for lap in ends)
    peer_work = share * statistics.median(pace.cpu for pace in paces)
    losses = ", ".join(f"{lap.loss:.3f}" for lap in ends)
    met = target is not None and sum(lap.loss <= target for lap in ends)
    aim = "" if target is None else f" (target {target}: {met} of 3)"
    note = f"losses {losses}{aim}; seconds of work {work:.1f} and {peer_work:.0f}"
    return row(f"time to the loss of nanoGPT's recipe, {name}", "s",
               statistics.median(lap.wall for lap in ends),
               share * statistics.median(pace.wall for pace in paces), peer_name,
               goal=25, threads=n, note=note)


def rebuilt(tokens: Tokens, vocab_size: int) -> Callable:
    "Some updates of the reference of chapter 21."
    entry = reference(vocab_size)
    batches = Batches(tokens.train, REFERENCE.batch_size, CONTEXT, 0)

    def some():
        for step in range(UPDATES): update(entry, batches[step], step)
    return some


def nanogpt(folder: Path, tokens: Tokens, vocab_size: int) -> Callable:
    "Some updates of nanoGPT's own model and optimizer, with the numbers of its README."
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    shape = module.GPTConfig(block_size=CONTEXT, vocab_size=vocab_size, n_layer=4, n_head=4,
                             n_embd=128, dropout=0.0, bias=False)
    model = module.GPT(shape)
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    batches = Batches(tokens.train, REFERENCE.batch_size, CONTEXT, 0)

    def some():
        for step in range(UPDATES):
            _, loss = model(*batches[step])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return some
