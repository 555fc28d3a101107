"""The long measurements of chapter 19b: the grid of runs that laws are fitted to, and what models
hold of random facts. `python tools/laws.py` (`make laws`) writes nbs/results/laws.json and goes on
where it was stopped; take the file away to measure anew."""
import math
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import product

from results import so_far, write

from gpt_nb.laws import Facts, Stories, bits_held, learn_by_heart, memoriser, read_once

SHAPES = (2, 8), (2, 16), (2, 32), (2, 48), (3, 64)   # layers, width
BETWEEN = (2, 12), (2, 24)                            # these on short texts only
STORIES = 1000, 2000, 4000, 8000, 16_000
FACTS = (16, 453, 25), (16, 453, 100), (16, 906, 100)   # width, people, readings of each
source = lru_cache(1)(Stories)


def run(shape: tuple[int, int], stories: int, **how) -> list:
    "A training run as a law sees it."
    return list(read_once(source(), shape, stories, seed=0, **how))


def runs() -> Iterator[tuple[str, Callable]]:
    "Sizes and amounts of text; then some of them with twice as many steps, or with other rates."
    for stories in STORIES:
        for shape in SHAPES + BETWEEN * (stories <= 2000):
            yield f"grid {shape} {stories} 0", partial(run, shape, stories)
    for stories in (2000, 8000):
        rows = round(4 * math.sqrt(stories / 1000))
        yield f"twice {(2, 32)} {stories} 0", partial(run, (2, 32), stories, rows=rows)
    for rate, shape in product((0.5, 2), ((2, 8), (3, 64))):
        yield f"rate {rate} {shape} 4000 0", partial(run, shape, 4000, rate=rate)


def capacity(width: int, people: int, readings: int) -> list:
    "Parameters, bits of the facts, bits held."
    facts = Facts(people)
    model = memoriser(facts, 2, width)
    learn_by_heart(model, facts, readings, rows=64)
    return [model.n_params, facts.bits, bits_held(model, facts)]


def facts() -> Iterator[tuple[str, Callable]]:
    "More readings of each person, then twice as many people."
    for job in FACTS: yield " ".join(map(str, (*job, 0))), partial(capacity, *job)


def main() -> None:
    "Measure what is not yet measured."
    found = so_far("laws")
    for part, plan in (("runs", runs), ("facts", facts)):
        for name, measure in plan():
            if name in found.setdefault(part, {}): continue
            found[part][name] = measure()
            write("laws", found)
            print(part, name, found[part][name], flush=True)


if __name__ == "__main__": main()
