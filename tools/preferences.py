"""The table of chapter 16c: what each way to more truth gives, and how far it goes from the body.
`python tools/preferences.py` (`make preferences`) writes nbs/results/preferences.json from seeds 0,
1 and 2. What stands in that file is kept; take it away to measure anew."""
import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from results import SEEDS, so_far, write

from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.finetuning import Examples
from gpt_nb.model import GPT
from gpt_nb.preferences import (Pair, TrueWords, answer_row, best_and_worst, best_of_n, distance,
                                kl_of_best, prefer, tell_on, told)
from gpt_nb.tales import STOP, Tales
from gpt_nb.training import TrainConfig, train

BODY = "growing/000800"
BEGINNINGS, EACH, TESTED, STEPS = 1000, 4, 400, 60
BETAS, COUNTS, TEMPERATURES, LOOKS = (0.1, 0.3, 1.0, 10.0), (4, 16), (0.7, 0.4), (10, 30, 60)


class Body:
    "A house model, beginnings to train and to test on, and how what it tells is judged."
    def __init__(self, name: str, seed: int, context: int | None = None):
        self.gpt, self.tok = GPT.from_pretrained(name, torch.float32), load_tokenizer(name)
        if context:
            wide = replace(self.gpt.config, context=context)
            self.gpt.config = self.gpt.model.config = wide
        self.seed, self.world = seed, Tales()
        first = 1_000_000 + 10_000 * seed
        self.stories = [self.begun(i) for i in range(first, first + BEGINNINGS)]
        self.starts = [self.ids(begun) for begun, _ in self.stories]
        self.tests = [self.ids(self.begun(i)[0]) for i in range(3_000_000, 3_000_000 + TESTED)]

    def begun(self, seed: int) -> tuple[str, str]:
        "The first four sentences of a story, and the rest."
        parts = self.world.sample(seed).text.split(STOP["en"])
        return STOP["en"].join(parts[:4]) + STOP["en"], STOP["en"].join(parts[4:])

    def ids(self, text: str) -> list[int]: return [self.tok.end_id, *self.tok.encode(text)]

    def text(self, ids: list[int]) -> str:
        return self.tok.decode([i for i in ids if i != self.tok.end_id])

    def truth(self, starts: list, answers: list) -> list:
        return [told("en", self.text(a), self.text(b)) for a, b in zip(starts, answers)]

    def scores(self, starts: list, answers: list) -> list[tuple[float, float]]:
        return [(t.whole, t.true / max(1, t.facts)) for t in self.truth(starts, answers)]

    def repeated(self, starts: list, n: int) -> list: return [s for s in starts for _ in range(n)]

    def pool(self) -> list[list[int]]:
        "What the body tells after each beginning, several times."
        return tell_on(self.gpt, self.tok, self.repeated(self.starts, EACH), seed=self.seed)

    def row(self, gpt: GPT, **how) -> dict:
        "What a model is worth."
        answers = tell_on(gpt, self.tok, self.tests, seed=500 + self.seed, **how)
        far = distance(gpt, self.gpt, self.tests, answers, self.tok.end_id, **how)
        return self.judged(answers) | dict(kl=far.kl, error=far.error, sampled=far.sampled,
                                           sampled_error=far.sampled_error)

    def judged(self, answers: list, n: int = 1) -> dict:
        "Truth, length, diversity."
        truth, words = self.truth(self.tests, answers), [self.text(a).split() for a in answers]
        runs = [tuple(w[i:i + 3]) for w in words for i in range(len(w) - 2)]
        return dict(facts=sum(t.true for t in truth) / sum(t.facts for t in truth),
                    whole=float(np.mean([t.whole for t in truth])),
                    words=float(np.mean([len(w) for w in words])),
                    diversity=len(set(runs)) / len(runs),
                    tokens=n * float(np.mean([len(a) for a in answers])))


def read(body: Body, rows: list, steps: int = STEPS) -> GPT:
    "A copy of the body that has read these rows."
    ids = body.tok.end_id
    data = Examples("generate", rows, [], (), ids, ids, body.tok.vocab_size)
    config = TrainConfig(steps=steps, optimizer="adamw", lr=1e-3, warmup=10, seed=body.seed,
                         eval_every=steps, compile=False)
    return train(copy.deepcopy(body.gpt), data, config, body.tok, show=False).model


def most_of(body: Body) -> Iterator[tuple[str, dict]]:
    "The best of several answers."
    n = max(COUNTS)
    starts = body.repeated(body.tests, n)
    answers = tell_on(body.gpt, body.tok, starts, seed=900 + body.seed)
    scores = body.scores(starts, answers)
    for m in COUNTS:
        at = [i + j for i in range(0, len(answers), n) for j in range(m)]
        kept = best_of_n([answers[i] for i in at], [scores[i] for i in at], m)
        far = [kl_of_best(scores[i:i + n], m) for i in range(0, len(scores), n)]
        error = float(np.std(far)) / len(far) ** 0.5
        yield f"best of {m}", body.judged(kept, m) | dict(kl=float(np.mean(far)), error=error)


def by_length(body: Body, answers: list) -> list[Pair]:
    "Pairs of a reader who likes what is long."
    lengths = [len(body.text(answer).split()) for answer in answers]
    return best_and_worst(body.starts, answers, lengths)


def looks(body: Body, pairs: list[Pair], beta: float) -> list[dict]:
    "A model on its way, at several numbers of steps."
    rows = [dict(steps=0) | body.row(body.gpt)]
    for steps in LOOKS:
        run = prefer(body.gpt, body.tok, pairs, beta, steps, seed=body.seed, show=False)
        rows.append(dict(steps=steps) | body.row(run.model))
    return rows


def ways(body: Body, answers: list) -> dict[str, Callable[[], dict]]:
    "Each way to more truth, by its name, as something to call."
    scores = body.scores(body.repeated(body.starts, EACH), answers)
    pairs = best_and_worst(body.starts, answers, scores, least=(1.0, 0.0))
    kept = best_of_n(answers, scores, EACH)
    ends = [[*body.tok.encode(rest), body.tok.end_id] for _, rest in body.stories]

    def by_dpo(beta: float) -> dict:
        run = prefer(body.gpt, body.tok, pairs, beta, STEPS, seed=body.seed, show=False)
        return body.row(run.model)

    def by_reading(rest: list) -> dict:
        return body.row(read(body, [answer_row(a, b) for a, b in zip(body.starts, rest)]))

    work = {"body": partial(body.row, body.gpt)}
    work |= {f"DPO, beta {beta:g}": partial(by_dpo, beta) for beta in BETAS}
    work |= {"read the best of 4": partial(by_reading, kept),
             "read true stories": partial(by_reading, ends)}
    for t in TEMPERATURES:
        work[f"temperature {t:g}"] = partial(body.row, body.gpt, temperature=t)
    rule = TrueWords(body.world, body.tok)
    return work | {"only true words": partial(body.row, body.gpt, rule=rule)}


def one_seed(found: dict, seed: int) -> Iterator[tuple[str, object]]:
    "Each measurement that is missing, under its name."
    body = Body(BODY, seed)
    answers = body.pool()
    for name, measure in ways(body, answers).items():
        if name not in found: yield name, measure()
    if f"best of {COUNTS[-1]}" not in found: yield from most_of(body)
    if "longer" in found: return
    wide = Body(BODY, seed, context=128)
    yield "longer", looks(wide, by_length(body, answers), 0.1)


def rounded(x):
    if isinstance(x, float): return round(x, 4)
    if isinstance(x, dict): return {k: rounded(v) for k, v in x.items()}
    return [rounded(v) for v in x] if isinstance(x, list) else x


if __name__ == "__main__":
    found = so_far("preferences")
    for seed in SEEDS:
        here = found.setdefault(BODY, {}).setdefault(str(seed), {})
        if "longer" in here and f"DPO, beta {BETAS[-1]:g}" in here: continue   # all is measured
        for name, value in one_seed(here, seed):
            here[name] = rounded(value)
            write("preferences", found)
            print(f"seed {seed}: {name}", flush=True)
