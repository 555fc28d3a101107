"""The rows of chapter 15: every task of the small world, learned by the same body in four ways, and
how many labels the mood of a story takes. `python tools/results.py finetuning` writes them."""
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from operator import itemgetter

import numpy as np
import torch
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.finetuning import (Best, best_mood, best_noised, cut_at_home, dreamer_tags, entity_f1,
                               finetune, first_sentences, mood_rows, noised, predict, tags_of)
from gpt_nb.tasks import (Tastes, hit_rate, next_rows, pairs_of, recommend, text_baselines,
                          text_scores)
from gpt_nb.model import GPT
from gpt_nb.sampling import generate
from gpt_nb.tales import Tales
from gpt_nb.training import Run, make_optimizers

TRAIN, TRIED, TEST = 1_000_000, 2_000_000, 3_000_000   # seeds: to learn, to choose rates, to test
EXAMPLES, TESTED = 256, 600
WRITTEN = 400      # of tasks whose answer is written, token by token
TOLD = 7           # sentences of a story that is asked about before it ends
DRAWN = 5          # times that it is told on
NOISE = 0.2        # share of labels that are changed
LEARN = {"all": "all", "from scratch": "all", "head": "head", "last block": 1}

MUON = dict(optimizer="muon", lr=0.01, muon_lr=0.02)
ADAMW = dict(optimizer="adamw", lr=1e-3)
HEAD = dict(optimizer="adamw", lr=0.02, epochs=16)
PART = {"head": dict(lr=0.05), "last block": dict(lr=3e-3)}   # of what reads moods


@dataclass(frozen=True)
class Task:
    "What is asked, of which body, and how the answers are scored."
    name: str
    kind: str                  # classify, tag or generate
    body: str                  # a house model
    rows: Callable             # seeds -> examples
    score: Callable            # (examples, answers) -> number
    counted: Callable          # (examples to learn from, others) -> {name: answers}
    ceiling: Callable          # examples -> Best
    measure: str               # what the score is
    how: dict                  # settings of `finetune`
    scratch: dict              # the same where weights are random
    tested: int = TESTED
    text: str = ""             # its name where the answer is text


def right(rows: list[dict], said: list) -> float:
    "The share of labels that are right."
    return float(np.mean([row["label"] == answer for row, answer in zip(rows, said)]))


def bag_of_words(rows: list[dict], others: list[dict]) -> dict:
    "Words and pairs of words, counted; a logistic regression weighs them."
    model = make_pipeline(CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+"),
                          LogisticRegression(max_iter=1000))
    model.fit([row["text"] for row in rows], [row["label"] for row in rows])
    return {"bag of words": model.predict([row["text"] for row in others]).tolist()}


def moods_of(seeds) -> list[dict]:
    "Moods of stories of level 2."
    return mood_rows(Tales(level=2), seeds)


def half_told(seeds) -> list[dict]:
    "Stories of which the end is not told yet, and how they end."
    stories = map(Tales(level=2).sample, seeds)
    return [dict(text=first_sentences(story, TOLD), label=story.mood) for story in stories]


@lru_cache(1)
def told_on(n: int) -> list[list[str]]:
    "The first n stories of the test as the house model goes on with them, up to the home."
    model, tok = body_for("tales-en"), load_tokenizer("tales-en")
    begun = [row["text"] for row in half_told(range(TEST, TEST + n))]
    result = []
    for draw in range(DRAWN):
        whole = [a + b for a, b in zip(begun, generate(model, begun, 60, tok=tok, seed=draw))]
        result.append([cut_at_home(text) or text for text in whole])
    return result


def forecasts(run: Run, n: int) -> list[str]:
    "How each story will end: most of the ways in which it may go on, read by a classifier."
    happy, at = np.zeros(n), run.model.labels.index("happy")
    for texts in told_on(n): happy += predict(run, texts, proba=True)[:, at].numpy()
    return ["happy" if share > DRAWN / 2 else "sad" for share in happy]


def noised_rows(seeds) -> list[dict]:
    "Moods, one in five of them changed."
    rows = moods_of(seeds)
    changed = noised([row["label"] for row in rows], NOISE, seed=seeds[0])
    return [dict(row, label=label) for row, label in zip(rows, changed)]


def tag_rows(tags: Callable) -> Callable:
    "What makes rows of words with their tags."
    def rows(seeds) -> list[dict]:
        stories = [Tales(level=1).sample(seed) for seed in seeds]
        return [dict(zip(("words", "tags"), tags(story))) for story in stories]
    return rows


def tags_right(rows: list[dict], said: list) -> float:
    "Entity F1."
    return entity_f1([row["tags"] for row in rows], said).f1


def word_features(words: list[str]) -> list[dict]:
    "Each word, with the one before and the one behind it."
    around = ["", *words, ""]
    return [dict(before=a, word=b, behind=c) for a, b, c in zip(around, around[1:], around[2:])]


def word_by_word(rows: list[dict], others: list[dict]) -> dict:
    "A logistic regression on each word and its neighbours."
    model = make_pipeline(DictVectorizer(), LogisticRegression(max_iter=300))
    model.fit([x for row in rows for x in word_features(row["words"])],
              [tag for row in rows for tag in row["tags"]])
    return {"each word and its neighbours":
            [model.predict(word_features(row["words"])).tolist() for row in others]}


def told_whole(rows: list[dict]) -> Best:
    "Whoever has the whole text can answer."
    return Best(1.0, 0.0)


def noised_best(rows: list[dict]) -> Best:
    "What the true label scores where some were changed."
    best = best_noised(1.0, NOISE)
    return Best(best, (best * (1 - best) / len(rows)) ** 0.5)


def text_task(name: str, task: str, lang: str = "en") -> Task:
    "A task whose answer is text."
    return Task(name, "generate", "tales-short", lambda seeds: pairs_of(task, lang, seeds),
                lambda rows, said: next(iter(text_scores(task, rows, said).values())),
                lambda rows, others: text_baselines(task, rows, others), told_whole,
                "sentences that say the same" if task == "translation" else "exact",
                TEXT, TEXT, WRITTEN, task)


def taste_rows(seeds) -> list[dict]:
    "What people liked, one thing after another."
    world = Tastes()
    return next_rows([world.sample(seed) for seed in seeds])


def liked(rows: list[dict], said: list[list[str]]) -> float:
    "Whether what came next is among the five that are thought likeliest."
    return hit_rate(said, [row["tags"][-1] for row in rows], 5)


def popular(rows: list[dict], others: list[dict]) -> dict:
    "What most people take; and what is most taken after the last thing."
    taken = Counter(thing for row in rows for thing in row["tags"])
    follows = {thing: Counter() for thing in Tastes().things}
    for row in rows:
        for a, b in zip(row["words"], row["tags"]): follows[a][b] += 1
    def after(row: dict) -> list[str]:
        counts = follows[row["words"][-1]]
        return sorted(taken, key=lambda thing: (-counts[thing], -taken[thing]))
    top = [thing for thing, _ in taken.most_common()]
    return {"popularity": [top for row in others], "what follows what": [*map(after, others)]}


def taste_best(rows: list[dict]) -> Best:
    "Whoever knows the tastes and how they mix: the five likeliest things hold so much."
    world = Tastes()
    hits = np.array([sum(list(world.next(row["words"]).values())[:5]) for row in rows])
    return Best(float(hits.mean()), float((hits * (1 - hits)).sum() ** 0.5 / len(rows)))


TEXT = dict(optimizer="muon", batch_size=8, decay=0.5, epochs=16)
BOTH = (0.005, 0.005), (0.005, 0.01), (0.01, 0.01), (0.01, 0.04)   # rates of embeddings, matrices
RATES = {"all": (*BOTH, (0.005, 0.04)), "from scratch": (*BOTH, (0.0025, 0.005))}
MOODS = ADAMW | dict(epochs=4)
TAGS = MUON | dict(epochs=4)
TASTES = ADAMW | dict(epochs=12)
TASKS = (
    Task("mood", "classify", "tales-en", moods_of, right, bag_of_words, told_whole, "accuracy",
         MOODS, MUON | dict(epochs=8)),
    Task("how will it end?", "classify", "tales-en", half_told, right, bag_of_words,
         lambda rows: best_mood(Tales(level=2), [row["text"] for row in rows]), "accuracy",
         MOODS, MUON | dict(epochs=8)),
    Task("mood, 1 label in 5 wrong", "classify", "tales-en", noised_rows, right, bag_of_words,
         noised_best, "accuracy", MOODS, MUON | dict(epochs=8)),
    Task("names, places, things", "tag", "tales-short", tag_rows(tags_of), tags_right, word_by_word,
         told_whole, "entity F1", TAGS, TAGS),
    Task("who dreams", "tag", "tales-short", tag_rows(dreamer_tags), tags_right, word_by_word,
         told_whole, "entity F1", TAGS | dict(epochs=8), TAGS | dict(epochs=8)),
    text_task("questions", "question"), text_task("summary", "summary"),
    text_task("English to Chinese", "translation"),
    text_task("Chinese to English", "translation", "zh"), text_task("repair", "repair"),
    text_task("shorter", "simpler"), text_task("another voice", "voice"),
    Task("what next?", "tag", "tales-short", taste_rows, liked, popular, taste_best, "hit in 5",
         TASTES, TASTES))


def body_for(name: str, fresh: int | None = None) -> GPT:
    "A house model, or its shape with random weights."
    model = GPT.from_pretrained(name, dtype=torch.float32)
    if fresh is None: return model
    torch.manual_seed(fresh)
    return GPT(model.config)


def bytes_to_train(run: Run) -> int:
    "Weights, gradients, and what the optimizers remember: two numbers a weight, Muon one."
    numbers = sum(p.numel() for p in run.model.parameters())
    for optimizer in make_optimizers(run.model, run.config):
        kept = 2 if isinstance(optimizer, torch.optim.AdamW) else 1
        for group in optimizer.param_groups:
            numbers += sum(p.numel() for p in group["params"] if p.requires_grad) * (1 + kept)
    return 4 * numbers


def answers(task: Task, run: Run, rows: list[dict]) -> list:
    "What a fine-tuned model says, in the form that the task's score reads."
    if task.name == "what next?": return recommend(run, [row["words"] for row in rows])
    if task.kind == "tag": return predict(run, [row["words"] for row in rows])
    return predict(run, [row["text"] for row in rows])


def fit(task: Task, rows: list[dict], learn: str, seed: int, **settings) -> tuple[Run, float]:
    "Fine-tune, and how many seconds of one core that takes."
    body = body_for(task.body, seed if learn == "from scratch" else None)
    how = dict(batch_size=16, warmup=10, decay=0.7)
    how |= task.scratch if learn == "from scratch" else task.how
    if learn == "head": how |= HEAD
    if task.kind == "classify": how |= PART.get(learn, {})
    start = time.process_time()
    run = finetune(body, rows, task.kind, load_tokenizer(task.body), learn=LEARN[learn], val=0,
                   seed=seed, show=False, compile=False, **how | settings)
    return run, time.process_time() - start


def seeds_of(seed: int, n: int) -> range:
    "Stories to learn from: each seed has others."
    return range(TRAIN + 100_000 * seed, TRAIN + 100_000 * seed + n)


@lru_cache(8)
def mood_run(learn: str, seed: int, n: int, epochs: int) -> tuple[Run, float]:
    "A classifier of moods: three of the rows ask it, and the curve of labels."
    task = TASKS[0]
    return fit(task, task.rows(seeds_of(seed, n)), learn, seed, epochs=epochs)


def times_read(learn: str, n: int) -> int:
    "How often n moods are read. Random weights and a lone head need more."
    if learn == "head": return HEAD["epochs"]
    return READ[n] * (2 if learn == "from scratch" and n < LABELS[-1] else 1)


def one_rate(task: Task, learn: str, lr: float, muon_lr: float) -> dict:
    "How well these rates do on stories that are neither learned from nor tested on."
    rows, others = task.rows(seeds_of(0, EXAMPLES)), task.rows(range(TRIED, TRIED + 100))
    run, _ = fit(task, rows, learn, 0, lr=lr, muon_lr=muon_lr)
    return dict(score=task.score(others, answers(task, run, others)))


def best_rates(task: Task, learn: str, tried: list[dict]) -> dict:
    "The rates that did best, of body and task; a last block takes those of the whole body."
    if task.kind != "generate" or learn == "head": return {}
    body = learn if learn == "from scratch" else "all"
    mine = [row for row in tried if (row["task"], row["learn"]) == (task.name, body)]
    best = max(mine, key=itemgetter("score"))
    return dict(lr=best["lr"], muon_lr=best["muon_lr"])


def one_row(task: Task, learn: str, seed: int, rates: dict) -> dict:
    "One way to learn one task: its score, and what it costs."
    rows, test = task.rows(seeds_of(seed, EXAMPLES)), task.rows(range(TEST, TEST + task.tested))
    if task.name in ("mood", "how will it end?"):
        run, seconds = mood_run(learn, seed, EXAMPLES, times_read(learn, EXAMPLES))
    else: run, seconds = fit(task, rows, learn, seed, **rates)
    tells = task.name == "how will it end?" and learn != "from scratch"
    said = forecasts(run, len(test)) if tells else answers(task, run, test)
    trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    row = dict(score=task.score(test, said), trained=trained, seconds=seconds,
               bytes=bytes_to_train(run)) | rates
    if task.text: row |= dict(scores=text_scores(task.text, test, said))
    return row


def about(task: Task) -> dict:
    "What is known of a task without a network: its ceiling, and what counting scores."
    test = task.rows(range(TEST, TEST + task.tested))
    found = {}
    for seed in (0, 1, 2):
        said = task.counted(task.rows(seeds_of(seed, EXAMPLES)), test)
        for name, told in said.items(): found.setdefault(name, []).append(task.score(test, told))
    best = task.ceiling(test)
    return dict(measure=task.measure, kind=task.kind, body=task.body, tested=len(test),
                ceiling=best.score, error=best.error, counted=found)


LABELS = (16, 64, 256, 1024, 4096, 16384)
READ = {16: 16, 32: 12, 64: 8, 128: 6, 256: 4, 1024: 2, 4096: 1, 16384: 1}   # labels: how often
POOL, ROUNDS = 1000, (16, 32, 64, 128, 256)


def one_size(body: str, n: int, seed: int) -> dict:
    "Mood from n labels chosen at random."
    task = TASKS[0]
    test = task.rows(range(TEST, TEST + TESTED))
    if body == "bag of words":
        said, seconds = bag_of_words(task.rows(seeds_of(seed, n)), test)[body], 0.0
    else:
        run, seconds = mood_run(body, seed, n, times_read(body, n))
        said = answers(task, run, test)
    return dict(score=right(test, said), seconds=seconds)


def least_sure(run: Run, rows: list[dict], n: int) -> list[int]:
    "Which n a classifier is least sure of."
    proba = predict(run, [row["text"] for row in rows], proba=True)
    return proba.max(1).values.argsort()[:n].tolist()


def by_uncertainty(seed: int) -> dict:
    "Mood from labels that are asked for where the model is least sure, in rounds."
    task, scores = TASKS[0], []
    test = task.rows(range(TEST, TEST + TESTED))
    pool = task.rows(seeds_of(seed, POOL))
    known, pool = pool[:ROUNDS[0]], pool[ROUNDS[0]:]
    for n, then in zip(ROUNDS, (*ROUNDS[1:], ROUNDS[-1])):
        run, seconds = fit(task, known, "all", seed, epochs=READ[n])
        scores.append(right(test, answers(task, run, test)))
        asked = set(least_sure(run, pool, then - n))
        known = known + [pool[i] for i in sorted(asked)]
        pool = [row for i, row in enumerate(pool) if i not in asked]
    return dict(n=list(ROUNDS), score=scores)


def plan() -> Iterator[dict]:
    "All that is measured; first one seed of each. Heads that write, and many labels: one seed."
    bodies = ("bag of words", "all", "from scratch")
    written = [task.name for task in TASKS if task.kind == "generate"]
    def rows(seed: int, *ways: str):
        return [dict(task=task.name, learn=way, seed=seed) for way in ways for task in TASKS]
    def sizes(seed: int, counts):
        return [dict(body=body, n=n, seed=seed) for n in counts for body in bodies]
    def quick(jobs: list[dict]): return [job for job in jobs if job["task"] not in written]
    def slow(jobs: list[dict]): return [job for job in jobs if job["task"] in written]
    yield from quick(rows(0, *LEARN)) + sizes(0, LABELS[:3])
    for task, learn in product(written, RATES):
        for lr, muon_lr in RATES[learn]: yield dict(task=task, learn=learn, lr=lr, muon_lr=muon_lr)
    yield dict(chosen="by uncertainty", seed=0)
    for seed in (1, 2): yield from quick(rows(seed, *LEARN)) + sizes(seed, LABELS[:3])
    for seed in (0, 1, 2):
        yield from sorted(slow(rows(seed, "all", "from scratch")), key=itemgetter("task"))
    yield from slow(rows(0, "head", "last block"))
    for seed in (1, 2): yield dict(chosen="by uncertainty", seed=seed)
    for seed in (0, 1, 2): yield from sizes(seed, LABELS[3:4])
    yield from sizes(0, LABELS[4:])


def measured(job: dict, tried: list[dict]) -> dict:
    "What comes of one of these; the rates that were tried are needed for some."
    if "chosen" in job: return by_uncertainty(job["seed"])
    if "task" not in job: return one_size(**job)
    task = {task.name: task for task in TASKS}[job["task"]]
    if "lr" in job: return one_rate(task, *itemgetter("learn", "lr", "muon_lr")(job))
    return one_row(task, job["learn"], job["seed"], best_rates(task, job["learn"], tried))
