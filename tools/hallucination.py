"""What a small GPT makes up, over many readings of a text, in both languages and three seeds, by
width and by the length of the text: `python tools/hallucination.py` writes
nbs/results/hallucination.json, which chapter 17c draws. What stands in that file is kept, so a
series that was stopped goes on; take the file away to measure anew."""
import numpy as np
from results import SEEDS, round_all, so_far, write

from gpt_nb.evaluation import Calibration
from gpt_nb.hallucination import (Birthplaces, Said, as_tokens, by_times, good_turing, how_true,
                                  learner, miscalibration, refuse_below, study, true_place,
                                  what_counting_says, what_it_says)
from gpt_nb.ngram import NGram

SITTING = 40 * 64                    # sentences read in a sitting
TEMPERATURES = 0.0, 0.5, 0.7, 1.0, 1.3
WIDTHS = 16, 32, 64, 128


def look(said: Said, world: Birthplaces, counts: np.ndarray) -> dict:
    "What a model says, asked and unasked."
    p = said.place[world.who]
    sure, correct = p.max(1).clip(max=1), p.argmax(1) == world.born
    calibration = Calibration()
    calibration.add(sure, correct, world.share)
    found = true_place(said, world)
    return dict(judged=list(how_true(said, world)), miscalibration=miscalibration(said, world),
                asked=by_times(found, counts), error=float(world.share @ (1 - found)),
                greedy=float(world.share @ ~correct), calibration=calibration.error,
                refused=refused(sure, correct, world.share),
                refused_by_name=refused(said.name[world.who], correct, world.share))


def refused(sure: np.ndarray, correct: np.ndarray, share: np.ndarray) -> dict:
    "The share of questions answered wrongly where only so many are answered."
    found = refuse_below(sure, correct, share)
    return {str(least): float(found.error[np.searchsorted(found.coverage, least)])
            for least in (0.5, 0.7, 0.8, 0.999)}


class Text:
    "A text of n sentences from a world, and what is known of it."
    def __init__(self, lang: str, people: int, n: int, seed: int):
        self.world = world = Birthplaces(lang, people, seed)
        drawn, later = world.draw(n, seed), world.draw(1000, seed + 100)
        self.counts = world.count(drawn)
        self.tokens = as_tokens(world, map(world.fact, drawn), map(world.fact, later))
        missing = float(world.share[self.counts == 0].sum())
        self.about = dict(lang=lang, people=people, n=n, seed=seed, missing=missing,
                          once=good_turing(self.counts), best=missing * (1 - 1 / len(world.places)))

    def sittings(self, many: int, width: int = 64):
        "A model after each sitting: how often it has read the text by then, its loss, and itself."
        seed, n = self.about["seed"], self.about["n"]
        model = learner(self.world, width, seed)
        for i in range(many):
            run = study(model, self.tokens, seed=100 * seed + i)
            yield dict(read=(i + 1) * SITTING / n, loss=run.val_loss), model


def series(lang: str, seed: int) -> dict:
    "A model of ten sittings, looked at after each; counting beside it."
    text, looks = Text(lang, 1000, 1000, seed), []
    for about, model in text.sittings(10):
        looks.append(about | look(what_it_says(model, text.world), text.world, text.counts))
    warm = {str(t): look(what_it_says(model, text.world, t), text.world, text.counts)
            for t in TEMPERATURES}
    size = text.world.tok.vocab_size
    gram = NGram(8).fit(text.tokens.train, size, end_id=text.world.tok.end_id)
    counted = look(what_counting_says(gram, text.world), text.world, text.counts)
    return text.about | dict(looks=looks, temperatures=warm, counting=counted)


def final(people: int, n: int, seed: int, width: int, reads: int) -> dict:
    "A model that has read its text so often."
    text = Text("en", people, n, seed)
    *_, (about, model) = text.sittings(round(reads * n / SITTING), width)
    found = look(what_it_says(model, text.world), text.world, text.counts)
    return text.about | dict(width=width, parameters=model.n_params) | about | found


def plan():
    "Every measurement: its name, and how it is made."
    for seed in SEEDS:
        for lang in ("en", "zh"): yield f"series {lang} {seed}", lambda a=(lang, seed): series(*a)
    for seed in SEEDS:
        for width in WIDTHS:
            yield f"width {width} {seed}", lambda a=(1000, 1000, seed, width, 20): final(*a)
    for seed in SEEDS:
        for n in (500, 1000, 2000):
            yield f"same people {n} {seed}", lambda a=(1000, n, seed, 64, 16): final(*a)
            yield f"more people {n} {seed}", lambda a=(n, n, seed, 64, 16): final(*a)


def main() -> None:
    "Measure what is not yet measured."
    found = so_far("hallucination")
    for name, measure in plan():
        if name in found: continue
        found[name] = round_all(measure(), 4)
        write("hallucination", found)
        print(name, found[name].get("error"), flush=True)


if __name__ == "__main__": main()
