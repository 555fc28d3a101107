"""How cost grows: each size is doubled some times, alone, and the slope is set beside the expected.

A slope of 1 in a picture with two logarithmic axes means: twice as large, twice as long. What is
expected is the slope of the work as it is counted (chapter 08), over the same sizes; small models
grow slower than that, for part of their time goes into calls. Seconds of one thread.
"""
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import torch
from frame import Options, in_turn, row, threads
from step import settings, tokens

from gpt_nb.data import load_texts
from gpt_nb.model import GPT, GPTConfig, flops_per_token
from gpt_nb.sampling import generate
from gpt_nb.tokenizer import BPETokenizer
from gpt_nb.training import Run, Single, Trainer

SIZES = {"batch": (1, 2, 4, 8, 16), "context": (64, 128, 256, 512), "width": (64, 128, 256, 512),
         "depth": (1, 2, 4, 8), "vocabulary": (256, 1024, 4096, 16384)}
USUAL = {"batch": 4, "context": 128, "width": 128, "depth": 2, "vocabulary": 512}
TEXT = (100_000, 200_000, 400_000, 800_000)   # characters
WORDS = (512, 1024, 2048, 4096)               # entries of a vocabulary
NEW = 16                                      # tokens that are written
SLACK = 0.15                                  # what noise may add to a slope

Points = list[tuple[float, float]]


def slope(points: Points) -> float:
    "Of the straight line through them on two logarithmic axes."
    x, y = np.log(np.array(points, dtype=float)).T
    return float(np.polyfit(x, y, 1)[0])


def shaped(axis: str, x: int) -> tuple[GPTConfig, int]:  # and the rows of a batch
    "The usual shape with one size changed."
    s = USUAL | {axis: x}
    c = GPTConfig("qwen3", s["vocabulary"], s["context"], s["depth"], 4, s["width"])
    return c, s["batch"]


def timed(ways: dict[float, Callable], rounds: int) -> Points:
    "Each size and its seconds."
    return [(x, t.cpu) for x, t in in_turn(ways, rounds).items()]


def training(axis: str, rounds: int) -> tuple[Points, Points]:  # seconds, counted work
    "Steps of the loop of chapter 09."
    ways, work = {}, []
    for x in SIZES[axis]:
        c, batch = shaped(axis, x)
        run = Run(GPT(c), None, settings("cpu", batch_size=batch), [])
        ways[x] = Trainer(run, tokens(c), Single()).update
        work.append((x, batch * c.context * flops_per_token(c, c.context)))
    return timed(ways, rounds), work


def writing(axis: str, rounds: int) -> tuple[Points, Points]:  # seconds, counted work
    "New tokens after a prompt: the time for some, less that for the first."
    ways, work = {}, []
    for x in SIZES[axis]:
        c, batch = shaped(axis, x)
        model, length = GPT(c).eval(), c.context - NEW - 1
        prompt = torch.randint(c.vocab_size, (batch, length))
        for n in (1, 1 + NEW):
            ways[x, n] = lambda m=model, p=prompt, n=n: generate(m, p, n, temperature=0)
        work.append((x, batch * NEW * flops_per_token(c, length)))
    took = {key: t.cpu for key, t in in_turn(ways, rounds).items()}
    more = [(x, took[x, 1 + NEW] - took[x, 1]) for x in SIZES[axis]]
    return [(x, max(seconds, 1e-6)) for x, seconds in more], work


def text(characters: int) -> list[str]:
    "So much of the text that comes with Python, in documents."
    whole = "\n\n".join(load_texts("pydocs"))
    return whole[:characters].split("\n\n")


def tokenizing(rounds: int) -> Iterator[tuple[str, str, Points]]:  # what, axis, seconds
    "Training a tokenizer and using it."
    parts = {n: text(n) for n in TEXT}
    tok = BPETokenizer.train(parts[TEXT[0]], vocab_size=1024)
    train = {n: lambda t=t: BPETokenizer.train(t, vocab_size=1024) for n, t in parts.items()}
    encode = {n: lambda t=t: [tok.encode(one) for one in t] for n, t in parts.items()}
    some = parts[TEXT[2]]
    entries = {v: lambda v=v: BPETokenizer.train(some, vocab_size=v) for v in WORDS}
    yield "training a tokenizer", "text", timed(train, rounds)
    yield "training a tokenizer", "vocabulary", timed(entries, rounds)
    yield "encoding", "text", timed(encode, rounds)
    yield "memory of training a tokenizer", "text", [(n, held(f)) for n, f in train.items()]


def held(f: Callable) -> int:
    "Bytes of Python's objects at the peak of a call."
    tracemalloc.start()
    f()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def grown(what: str, axis: str, points: Points, expected: float) -> dict:
    "A row that keeps its points for a picture."
    made = row(f"growth of {what} with {axis}", "exponent", slope(points), goal=expected + SLACK,
               threads=1, note=f"expected at most {expected:.2f}, and {SLACK} for noise")
    return made | dict(what=what, axis=axis, points=points, expected=expected)


def rows(options: Options) -> Iterator[dict]:
    "Training and writing against five sizes of a model, a tokenizer against text and vocabulary."
    with threads(1):
        for what, measure in (("a training step", training), ("writing", writing)):
            for axis in SIZES:
                points, work = measure(axis, options.rounds)
                yield grown(what, axis, points, slope(work))
        for what, axis, points in tokenizing(min(3, options.rounds)):
            yield grown(what, axis, points, 1.0)
