"""Regenerate the measurements that take longer than a notebook may:
`python tools/results.py NAME ...` (none named: all): ladder, emergence, code, block, choices, text,
prompts, stream, tags, finetuning, adapters, speedrun.

Each writes nbs/results/NAME.json from seeds 0, 1 and 2; the chapters draw it and assert what they
say of it. What stands in that file is kept, and a training that was stopped goes on from its last
saved state in runs/results; take the file away to measure anew."""
import copy
import json
import shutil
from collections.abc import Iterable, Iterator
import time
from contextlib import chdir
from dataclasses import replace
from itertools import product
from unittest.mock import patch
from functools import lru_cache, partial
from time import process_time

import numpy as np
import torch
from models import ROOT, choose, prepare
from tasks import TASKS, about, best_rates, measured, plan

from gpt_nb import finetuning
from gpt_nb.adapters import (add_adalora, add_bottleneck, add_ia3, add_lora, add_prefix,
                             add_prompt)
from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.cli import cache_folder, make_tokenizer, shape_of, training_part
from gpt_nb.data import Tokens, load_texts, longest_document, tokenize, world_of
from gpt_nb.emergence import (PythonHolds, check_python, share_that_holds, write_functions,
                              write_stories)
from gpt_nb.evaluation import counted_rungs, evaluate, floor, rungs, trained_rungs
from gpt_nb.finetuning import Examples, cut_at_home, finetune, mood_of, mood_rows, predict
from gpt_nb.tasks import (TEXT_TASKS, Tastes, changed, choices_for, hit_rate,
                          in_own_words, likeliest, ndcg, next_rows, pairs_of, recommend,
                          rehearse, text_scores, with_shots)
from gpt_nb.model import GPT, GPTConfig, flops_per_token
from gpt_nb.ngram import NGram, bits_per_byte
from gpt_nb.sampling import generate
from gpt_nb.tales import Tales
from gpt_nb.training import Run, TrainConfig, train

RESULTS = ROOT / "nbs" / "results"
SEEDS = (0, 1, 2)
WORDS = dict(tokenizer="word", batch_size=32, steps=2400)
MANUAL = dict(tokenizer="bpe:2048", context=128, batch_size=16, steps=1200)
LADDER = {"tales": WORDS, "tales-zh": WORDS, "pydocs": MANUAL}
RATES = {"GPT-2 blocks": (0.003,), "one attention layer": (0.003,)}   # beside 0.01
GROW = {"tales": "bpe:340", "tales-zh": "char"}   # smaller than words: words have to be learned
KEEP = (10, 20, 40, 70, 100, 150, 220, 320, 460, 680, 1000, 1400, 2000)   # updates between looks
KEEP_CODE = (5, 10, 20, 40, 80, 160, 320, 640, 1280)

corpus = lru_cache(1)(prepare)


def round_all(x, digits: int = 5):
    "Numbers as short as they mean something."
    if isinstance(x, float): return round(x, digits)
    if isinstance(x, dict): return {k: round_all(v, digits) for k, v in x.items()}
    return [round_all(v, digits) for v in x] if isinstance(x, (list, tuple)) else x


def write(name: str, content: dict) -> None:
    "Keep what was measured so far."
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(round_all(content), ensure_ascii=False, separators=(",", ":"))
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def so_far(name: str) -> dict:
    "What was measured before."
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def stands(rows: list[dict], job: dict) -> bool:
    "Whether this was measured before."
    return any(job.items() <= row.items() for row in rows)


def start_ladder(data: str, tok, tokens: Tokens, context: int) -> dict:
    "The rungs that cost nothing, the floor, and how much the networks will read."
    world, spec = world_of(data), LADDER[data]
    best, row = None, context
    if world:
        best = bits_per_byte(floor(world, tokens.val, tok.end_id), tokens.val[1:], tok)
        row = (len(tokens.train) - 1) / (int((tokens.train == tok.end_id).sum()) - 1)
    counted = [dict(r._asdict(), seed=None) for r in counted_rungs(tokens, tok)]
    return dict(rungs=counted, floor=best, train_tokens=len(tokens.train),
                tokens_read=round(row * spec["steps"] * spec["batch_size"]))


def one_rung(name: str, data: str, tok, tokens: Tokens, context: int, seed: int, lr: float) -> dict:
    "Train one network of the ladder."
    spec = LADDER[data]
    config = TrainConfig(steps=spec["steps"], batch_size=spec["batch_size"], lr=lr, muon_lr=0.01,
                         eval_every=10**6, seed=seed)
    (rung,) = trained_rungs(tokens, tok, config, context, only=name)
    return dict(rung._asdict(), seed=seed)


def ladder() -> None:
    "Bits per byte of every rung on three corpora; on the first, two rungs at other rates too."
    result = so_far("ladder")
    for data, spec in LADDER.items():
        tok, tokens = corpus(data, spec["tokenizer"])
        context = spec.get("context") or longest_document(tokens)
        if data not in result: result[data] = start_ladder(data, tok, tokens, context)
        rows = result[data]["rungs"]
        for seed in SEEDS:
            for name in rungs(tok.vocab_size, context, tok.end_id):
                if any((r["name"], r["seed"]) == (name, seed) for r in rows): continue
                rows.append(one_rung(name, data, tok, tokens, context, seed, 0.01))
                write("ladder", result)
    tok, tokens = corpus("tales", WORDS["tokenizer"])
    found = result["tales"].setdefault("rates", [])
    for name, lr in ((name, lr) for name, rates in RATES.items() for lr in rates):
        if any((r["name"], r["lr"]) == (name, lr) for r in found): continue
        row = one_rung(name, "tales", tok, tokens, longest_document(tokens), 0, lr)
        found.append(row | dict(lr=lr))
        write("ladder", result)


def copies_of(model: GPT, tokens: Tokens, config: TrainConfig, tok, name: str) -> Iterator[tuple]:
    "Train once: (updates, tokens read, the model then) of each copy kept."
    out = ROOT / "runs" / "results" / name
    run = train(model, tokens, config, tok, out=out, resume=(out / "state").is_dir())
    read = {row["step"]: row["tokens"] for row in run.history}
    for step in config.keep:
        yield step, read[step], GPT.from_pretrained(out / "checkpoints" / f"{step:06d}").eval()
    shutil.rmtree(out)


def look(model: GPT, tok, tokens: Tokens, world: Tales) -> tuple[dict, list[str]]:
    "How far a model has come: its loss, what holds of 200 stories; and these."
    texts = write_stories(model, tok, 200, seed=0)
    loss = evaluate(model, tokens.val[:30_000]).loss
    return dict(loss=loss, **share_that_holds(world, texts)._asdict()), texts


def grow(data: str, seed: int) -> list[dict]:
    "One training run, looked at along the way. The first seed keeps a story: see `first_to_hold`."
    (tok, tokens), world = corpus(data, GROW[data]), world_of(data)
    torch.manual_seed(seed)
    sizes = dict(vocab_size=tok.vocab_size, context=longest_document(tokens),
                 bos_token_id=tok.end_id, eos_token_id=tok.end_id)
    config = TrainConfig(steps=KEEP[-1], batch_size=32, lr=0.02, muon_lr=0.01, eval_every=500,
                         seed=seed, keep=KEEP, log_every=10)
    model, looks, told = GPT(GPTConfig.from_depth(2, tie_embeddings=False, **sizes)), [], []
    for step, read, copy in copies_of(model, tokens, config, tok, f"{data}-{seed}"):
        found, texts = look(copy, tok, tokens, world)
        looks.append(dict(step=step, tokens=read, **found))
        told.append(texts)
    if seed != SEEDS[0]: return looks
    number = first_to_hold(world, told[-1])
    return [dict(row, number=number, sample=texts[number]) for row, texts in zip(looks, told)]


def first_to_hold(world: Tales, texts: list[str]) -> int:
    "The first story that holds: shown at every look, it is drawn with the same random numbers."
    return next((i for i, text in enumerate(texts) if world.check(text).story == 1), 0)


def counted(data: str, n: int) -> dict:
    "What a Kneser-Ney model of order n writes after reading the same stories."
    (tok, tokens), world = corpus(data, GROW[data]), world_of(data)
    gram = NGram(n).fit(tokens.train, tok.vocab_size, end_id=tok.end_id)
    texts = tok.decode(gram.sample(60_000, [tok.end_id])).split("<|end|>")[1:-1][:500]
    loss = float(-gram.log_probs(tokens.val)[1:].mean())
    return dict(n=n, loss=loss, stories=len(texts), **share_that_holds(world, texts)._asdict())


def emergence() -> None:
    "Words, sentences, stories against tokens read; counting beside it."
    result = so_far("emergence")
    for data in GROW:
        if data not in result:
            tok, tokens = corpus(data, GROW[data])
            best = floor(world_of(data), tokens.val, tok.end_id)
            result[data] = dict(runs=[], counting=[counted(data, n) for n in (2, 3, 5, 7)],
                                floor=best)
        for seed in SEEDS[len(result[data]["runs"]):]:
            result[data]["runs"].append(grow(data, seed))
            write("emergence", result)


def read_code(seed: int) -> list[dict]:
    "One training run on Python source, looked at along the way: what holds of its functions."
    tok, tokens = corpus("pycode", "bpe:2048")
    torch.manual_seed(seed)
    ends = dict(bos_token_id=tok.end_id, eos_token_id=tok.end_id)
    model = GPT(GPTConfig.from_depth(3, vocab_size=tok.vocab_size, context=256, **ends))
    config = TrainConfig(steps=KEEP_CODE[-1], batch_size=8, lr=0.01, muon_lr=0.02, eval_every=320,
                         seed=seed, keep=KEEP_CODE, log_every=5)
    result = []
    for step, read, copy in copies_of(model, tokens, config, tok, f"code-{seed}"):
        written, holds = write_functions(copy, tok, 200, seed=0), PythonHolds(0, 0, 0)
        if written: holds = PythonHolds(*np.mean([*map(check_python, written)], axis=0).tolist())
        bits = evaluate(copy, tokens.val[:100_000], tok).bits_per_byte
        sample = written[0][:600] if written else ""
        result.append(dict(step=step, tokens=read, bits=bits, whole=len(written) / 200,
                           sample=sample, **holds._asdict()))
    return result


def code() -> None:
    "Brackets, grammar and names of Python against tokens read."
    result = so_far("code") or dict(runs=[])
    for seed in SEEDS[len(result["runs"]):]:
        result["runs"].append(read_code(seed))
        write("code", result)


def block() -> None:
    "What the parts of a block are worth: chapter 06 with its slow cells, left out when it is read."
    if (RESULTS / "block.json").is_file(): return
    nb = json.loads((ROOT / "nbs" / "06_block.ipynb").read_text("utf-8"))
    cells = ["".join(cell["source"]) for cell in nb["cells"] if cell["cell_type"] == "code"]
    slow, names = "#| eval: false", {}
    last = max(i for i, text in enumerate(cells) if text.startswith(slow))
    with chdir(ROOT / "nbs"):
        for text in cells[:last + 1]:
            if text.startswith(slow) or "measured" not in text: exec(text, names)


OTHERS = ROOT / "runs" / "texts"   # any public texts; what is not there is passed over
CHOICES = {   # text: where it is, and (tokenizer, layers, context, updates, weight decay)
    "manual": ("pydocs", [("bpe:2048", 1, 128, 2150, 0.0), ("bpe:2048", 1, 128, 4300, 0.0),
                          ("bpe:2048", 1, 128, 2150, 0.5), ("bpe:2048", 2, 128, 600, 0.0),
                          ("bpe:2048", 2, 128, 1200, 0.0)]),
    "Chinese, 1 M characters": (OTHERS / "zh", [(kind, 1, 128, 1000, 0.0) for kind in
                                                ("char", "bpe:2048", "bpe:4096")]),
    "Chinese, 67,000 characters": (OTHERS / "zh.txt", [(kind, 1, 128, 300, 0.0) for kind in
                                                       ("char", "bpe:1024", "bpe:2048")]),
    "plays, 200 KB": (OTHERS / "plays.txt", [
        ("bpe:1024", 1, 128, 240, 0.0), ("bpe:1024", 2, 128, 400, 0.0),
        ("bpe:512", 1, 128, 240, 0.0), ("bpe:512", 1, 128, 600, 0.0),
        ("bpe:512", 1, 128, 600, 0.5), ("bpe:512", 1, 128, 1200, 0.5)]),
    "plays, 20 KB": (OTHERS / "short.txt", [
        ("bpe:512", 1, 64, 100, 0.0), ("bpe:300", 1, 64, 100, 0.0), ("bpe:300", 1, 64, 200, 0.0),
        ("char", 1, 64, 100, 0.0), ("bpe:512", 1, 64, 400, 0.5)])}


def one_choice(text: str, data, kind: str, layers: int, context: int, updates: int,
               decay: float) -> dict:
    "Train one small model; `work` is in operations, forward."
    texts = load_texts(data)
    tok = make_tokenizer(kind, texts if kind == "char" else training_part(texts))
    tokens = tokenize(texts, tok, cache_folder())
    torch.manual_seed(0)
    shape = shape_of(layers, tok.vocab_size, context)
    config = TrainConfig(steps=updates, batch_size=8, weight_decay=decay, eval_every=10**6)
    run = train(GPT(shape), tokens, config, tok, show=False)
    read = run.history[-1]["tokens"]
    return dict(text=text, layers=layers, tokenizer=kind, updates=updates,
                epochs=round(read / len(tokens.train), 2), weight_decay=decay,
                tokens_per_weight=round(read / run.model.n_params, 2),
                work=read * flops_per_token(shape, context),
                bits_per_byte=evaluate(run.model, tokens, tok).bits_per_byte)


def choices() -> None:
    "Which size and which vocabulary fit a text: chapter 22 chooses by it."
    found = so_far("choices") or dict(unit=None, runs=[])
    names = "text", "tokenizer", "layers", "updates", "weight_decay"
    have = {tuple(row[name] for name in names) for row in found["runs"]}
    for text, (data, specs) in CHOICES.items():
        for kind, layers, context, updates, decay in specs:
            if (text, kind, layers, updates, decay) in have: continue
            if data != "pydocs" and not data.exists(): continue
            row = one_choice(text, data, kind, layers, context, updates, decay)
            found["unit"] = found["unit"] or row["work"]   # the work of the first is 1
            found["runs"].append(row | dict(work=round(row["work"] / found["unit"], 2)))
            write("choices", found)


TEXTS = dict(optimizer="muon", batch_size=8, warmup=10, decay=0.5)
EPOCHS_OF = {256: 16, 2048: 6}   # examples: how often each is read
TESTED = range(3_000_000, 3_000_300)


def text_body(kind: str, seed: int) -> GPT:
    "The small house model, or the same shape with random weights."
    model = GPT.from_pretrained("tales-short", dtype=torch.float32)
    if kind == "pretrained": return model
    torch.manual_seed(seed)
    return GPT(model.config)


def text_rates(task: str, kind: str) -> dict:
    "The rates that `rows_of_tasks` found for a task whose answer is text."
    learn = "all" if kind == "pretrained" else "from scratch"
    row = next(row for row in TASKS if row.text == task)
    return best_rates(row, learn, so_far("finetuning")["rates"])


def one_text_task(task: str, rows: list, tested: list, kind: str, seed: int) -> tuple[dict, list]:
    "Fine-tune on a task whose answer is text: its scores, and what is written."
    tok = load_tokenizer("tales-short")
    run = finetune(text_body(kind, seed), rows, "generate", tok, epochs=EPOCHS_OF[len(rows)], val=0,
                   seed=seed, show=False, **TEXTS | text_rates(task, kind))
    said = predict(run, [row["text"] for row in tested])
    return text_scores(task, tested, said), said


def in_sentences(rows: list[dict]) -> list[dict]:
    "Questions whose answer is a sentence of the world."
    return [dict(row, target=in_own_words(row["text"], row["target"])) for row in rows]


def broken_rows(rows: list[dict], tok, separator="\n", end=True, prompt=False) -> list[tuple]:
    "Rows to train on, with one thing about them changed."
    result = []
    for row in rows:
        given = [tok.end_id, *tok.encode(row["text"] + separator)]
        answer = tok.encode(row["target"]) + [tok.end_id] * end
        asked = given[1:] if prompt else [-100] * (len(given) - 1)
        result.append(((given + answer)[:-1], asked + answer))
    return result


def one_break(change: dict, rows: list[dict], tested: list[dict], seed: int) -> tuple[dict, list]:
    "Summaries learned from rows with one thing changed: how many are right, how many begin right."
    tok, model = load_tokenizer("tales-short"), text_body("pretrained", seed)
    broken = broken_rows(rows, tok, **change)
    examples = Examples("generate", broken, [], (), tok.end_id, tok.end_id, tok.vocab_size)
    steps = EPOCHS_OF[len(rows)] * len(rows) // TEXTS["batch_size"]
    config = TrainConfig(steps=steps, eval_every=10**6, seed=seed, compile=False, **TEXTS,
                         **text_rates("summary", "pretrained"))
    run = train(model, examples, config, tok, show=False)
    prompts = [row["text"] + change.get("separator", "\n") for row in tested]
    said = generate(run.model, prompts, 60, temperature=0, tok=tok)
    right = [a == row["target"] for a, row in zip(said, tested)]
    begins = [a.startswith(row["target"]) for a, row in zip(said, tested)]
    return dict(exact=float(np.mean(right)), begins=float(np.mean(begins))), said


BREAKS = {"as it should be": {}, "loss on the prompt too": dict(prompt=True),
          "no line break": dict(separator=""), "no end token": dict(end=False)}


def text_runs() -> Iterator[dict]:
    "What is trained beside the rows of all tasks: Chinese, more examples, and what breaks."
    bodies = "pretrained", "scratch"
    tasks = [task for task in TEXT_TASKS if task != "translation"]
    for name in BREAKS: yield dict(task=name, lang="en", n=256, body="pretrained")
    for task, body in product(tasks, bodies): yield dict(task=task, lang="zh", n=256, body=body)
    for body in bodies: yield dict(task="in a sentence", lang="en", n=256, body=body)
    for task in ("summary", "voice", "question"):
        yield dict(task=task, lang="en", n=2048, body="pretrained")


def text_run(task: str, lang: str, n: int, body: str, seed: int) -> tuple[dict, list[str]]:
    "Scores, and what was written, of one of these."
    name = "summary" if task in BREAKS else "question" if task == "in a sentence" else task
    rows = pairs_of(name, lang, range(1_000_000, 1_000_000 + n))
    tested = pairs_of(name, lang, TESTED)
    if task in BREAKS: return one_break(BREAKS[task], rows, tested, seed)
    if task == "in a sentence": rows, tested = in_sentences(rows), in_sentences(tested)
    return one_text_task(name, rows, tested, body, seed)


def text() -> None:
    "Tasks whose answer is text, pretrained and from scratch; and what happens without a part."
    found = so_far("text") or dict(runs=[])
    for about in (dict(about, seed=0) for about in text_runs()):
        if any(about.items() <= row.items() for row in found["runs"]): continue
        scores, said = text_run(**about)
        example = dict(said=said[0]) if about["task"] in BREAKS else {}   # a chapter shows it
        found["runs"].append(about | scores | example)
        write("text", found)


HOWS = {   # what is trained, and how: what it forgets against what it learns
    "all": dict(lr=1e-3, epochs=8), "head": dict(lr=0.02, epochs=16, learn="head"),
    "rehearsal": dict(lr=1e-3, epochs=8), "small rate": dict(lr=5e-4, epochs=8),
    "last block": dict(lr=3e-3, epochs=8, learn=1)}
MOODS_TESTED = range(3_000_000, 3_000_400)


def moods(n: int, seed: int) -> list[dict]:
    "Stories up to the name of whoever smiles, with their mood; each seed has others."
    first = 1_000_000 + 10_000 * seed
    return mood_rows(Tales(level=2), range(first, first + n))


def log_odds(model, rows: list[dict], tok) -> np.ndarray:
    "How much likelier a classifier finds sad than happy, in nats."
    p = predict(model, [row["text"] for row in rows], tok, proba=True).double()
    return (p[:, 1].log() - p[:, 0].log()).numpy()


def right(odds: np.ndarray, rows: list[dict]) -> float:
    "The share of moods that are right."
    return float(np.mean((odds > 0) == [row["label"] == "sad" for row in rows]))


def as_teller(gpt: GPT, body, share: float = 1.0) -> GPT:
    "The GPT with a body that was tuned, or with one between its own and that."
    told = copy.deepcopy(gpt)
    for p, tuned in zip(told.model.parameters(), body.parameters()):
        p.data.lerp_(tuned.data.to(p.dtype), share)
    return told


def held(gpt: GPT, tok, ids: np.ndarray, n: int = 100) -> dict:
    "What a body still knows of stories: its loss, its calibration, and what it writes."
    found = evaluate(gpt, ids, tok)
    kept = share_that_holds(Tales(level=2), write_stories(gpt, tok, n, seed=0))
    return dict(loss=found.loss, calibration=found.calibration.error, facts=kept.facts,
                story=kept.story)


def one_mood(gpt: GPT, tok, how: str, seed: int, ids: np.ndarray, tests: dict) -> dict:
    "Tune on 64 moods: what was learned, and what was forgotten."
    rows = moods(64, seed)
    spec = dict(val=0.0, seed=seed, show=False, optimizer="adamw") | HOWS[how]
    if how == "rehearsal":
        stories = Tales(level=2).texts(512, seed=5_000_000)
        run = rehearse(gpt, tok, rows, stories, seed=seed)
    else: run = finetune(gpt, rows, "classify", tok, **spec)
    config = replace(run.model.config, context=256)   # level 3 tells longer stories
    run.model.config = run.model.model.config = config
    odds = {name: log_odds(run.model, rows, tok) for name, rows in tests.items()}
    accuracy = {name: right(odds[name], tests[name]) for name in tests}
    row = dict(accuracy=accuracy)
    row |= held(as_teller(gpt, run.model.model), tok, ids)
    if how in ("all", "last block"): row["odds"] = [round(x, 2) for x in odds["as told"].tolist()]
    if how == "all": row["between"] = [one_between(gpt, tok, run, s, ids, tests["as told"])
                                       for s in (0.25, 0.5, 0.75)]
    return row


def one_between(gpt: GPT, tok, run, share: float, ids: np.ndarray, rows: list[dict]) -> dict:
    "A body pulled back towards its start, under the head that was trained."
    between = copy.deepcopy(run.model)
    between.model = as_teller(gpt, run.model.model, share).model
    told = as_teller(gpt, between.model)
    return dict(share=share, accuracy=right(log_odds(between, rows, tok), rows),
                loss=evaluate(told, ids, tok).loss)


def one_augmented(gpt: GPT, tok, labels: int, seed: int, written: list[str],
                  test: list[dict]) -> list[dict]:
    "A few labels, with written stories, and with as many real ones."
    world, real = Tales(level=2), moods(labels, seed)
    spec = dict(lr=1e-3, epochs=8, val=0.0, seed=seed, show=False, optimizer="adamw")
    first = finetune(gpt, real, "classify", tok, **spec)
    texts = [text for text in written if cut_at_home(text)]
    said = predict(first, [cut_at_home(text) for text in texts])
    guessed = [dict(text=cut_at_home(text), label=mood) for text, mood in zip(texts, said)]
    whole = [world.check(text).story == 1 for text in texts]
    truth = [mood_of(text) for text in texts]
    agreed = [r for r, ok, mood in zip(guessed, whole, truth) if ok and mood == r["label"]]
    n, whole_share = len(agreed), float(np.mean(whole))
    more = {f"{labels} labels": [], "+ written, not checked": guessed[:n],
            "+ written, checked": agreed, "+ as many real ones": moods(labels + n, seed)[labels:]}
    result = []
    for arm, rows in more.items():
        run = first if not rows else finetune(gpt, real + rows, "classify", tok, **spec)
        wrong = sum(r["label"] != mood_of(r["text"]) for r in rows) / max(1, len(rows))
        result.append(dict(name=arm, labels=labels, seed=seed, added=len(rows), wrong=wrong,
                           whole=whole_share, accuracy=right(log_odds(run.model, test, tok), test)))
    return result


def one_taste(gpt: GPT, tok, body: str, seed: int) -> dict:
    "What she would like next: a body that reads her list as words."
    world = Tastes()
    lists = [world.sample(1_000_000 + 10_000 * seed + i) for i in range(256)]
    test = [world.sample(3_000_000 + i) for i in range(1000)]
    if body == "from scratch":
        torch.manual_seed(seed)
        gpt = GPT(gpt.config)
    run = finetune(gpt, next_rows(lists), "tag", tok, lr=1e-3, epochs=12, val=0.0, seed=seed,
                   show=False, optimizer="adamw")
    ranked = recommend(run, [items[:-1] for items in test], k=5)
    came = [items[-1] for items in test]
    return dict(hit1=hit_rate(ranked, came, 1), hit5=hit_rate(ranked, came, 5),
                ndcg5=ndcg(ranked, came, 5))


def add_new(result: dict, part: str, seed: int, names: Iterable[str], measure) -> None:
    "Measure what is not there yet, and keep each as it comes."
    for name in names:
        job = dict(name=name, seed=seed)
        if stands(result[part], job): continue
        result[part].append(job | measure(name, seed))
        write("stream", result)


def stream() -> None:
    "Tastes, an alarm's classifier, its own stories as examples, what is forgotten (chapter 15)."
    result = so_far("stream") or dict(tastes=[], moods=[], augmented=[])
    folder, world = ROOT / "gpt_nb" / "models", Tales(level=2)
    short, en = Run.open(folder / "tales-short"), Run.open(folder / "tales-en")
    gpt, tok, told = en.model.float(), en.tok, mood_rows(Tales(level=2), MOODS_TESTED)
    tests = changed(told) | {
        "longer stories": mood_rows(Tales(level=3), MOODS_TESTED[:200])}
    texts = [[*tok.encode(text), tok.end_id] for text in world.texts(150, seed=4_000_000)]
    ids = np.concatenate([[tok.end_id], *texts])
    result["sad"] = [int(row["label"] == "sad") for row in told]
    if "start" not in result:
        result["start"] = held(gpt, tok, ids, 300) | dict(floor=floor(world, ids, tok.end_id))
    for seed in SEEDS:
        add_new(result, "tastes", seed, ("pretrained", "from scratch"),
                lambda body, seed: one_taste(short.model.float(), short.tok, body, seed))
        jobs = [dict(labels=labels, seed=seed) for labels in (64, 24)]
        missing = [job for job in jobs if not stands(result["augmented"], job)]
        if not missing: continue
        written = write_stories(gpt, tok, 400, seed=1000 * seed, temperature=0.7)
        for job in missing:
            result["augmented"] += one_augmented(gpt, tok, **job, written=written, test=told)
            write("stream", result)
    for seed in SEEDS:
        add_new(result, "moods", seed, HOWS,
                lambda how, seed: one_mood(gpt, tok, how, seed, ids, tests))


def rows_of_tasks() -> None:
    "Every task, learned in four ways; and how many labels a mood takes."
    torch.set_num_threads(1)
    result = so_far("finetuning") or dict(tasks={}, rows=[], labels=[])
    for task in TASKS:
        if task.name not in result["tasks"]: result["tasks"][task.name] = about(task)
        write("finetuning", result)
    result.setdefault("rates", [])
    for job in plan():
        part = "rates" if "lr" in job else "rows" if "task" in job else "labels"
        if stands(result[part], job): continue
        result[part].append(job | measured(job, result["rates"]))
        write("finetuning", result)


class FirstToken(finetuning.Encoder):
    "Asks for the tag of a word at its first token, before the word is over."
    def tag(self, example: dict) -> tuple[list[int], list[int]]:
        x, y = super().tag(example)
        first = 1
        for i in [i for i, tag in enumerate(y) if tag != -100]:
            y[i], y[first], first = -100, y[i], i + 1
        return x, y


def tagged(label, seed: int, n: int, test: bool = False) -> list[dict]:
    "Stories with tags, to learn from or to try a tagger on."
    start, world = 3_000_000 if test else 1_000_000 + 100_000 * seed, Tales("en", 1)
    rows = [label(world.sample(seed=start + i)) for i in range(n)]
    return [dict(words=words, tags=tags) for words, tags in rows]


def one_tagger(gpt: GPT, tok, rows: list[dict], test: list[dict], epochs: int, seed: int) -> dict:
    "Fine-tune on rows: entity F1 on the others, and how long it took."
    begun = time.perf_counter()
    run = finetuning.finetune(gpt, rows, "tag", tok, epochs=epochs, val=test[:32], seed=seed,
                              show=False, optimizer="muon", muon_lr=0.02, lr=0.01)
    seconds = time.perf_counter() - begun
    said = finetuning.predict(run, [row["words"] for row in test])
    score = finetuning.entity_f1([row["tags"] for row in test], said)
    return dict(f1=score.f1, seconds=round(seconds))


DREAMERS = (("no mask", 2048, 4), ("no mask", 1024, 3), ("causal", 2048, 4),
            ("read twice", 2048, 5))   # stories to learn from, epochs


def tags() -> None:
    "Names, places, things from few stories; and what a causal mask costs where tags look ahead."
    result, body = so_far("tags") or dict(names=[], dreamers=[]), Run.open("tales-short")
    for seed in SEEDS:
        for how, n, epochs in DREAMERS:
            if any((row["how"], row["stories"], row["seed"]) == (how, n, seed)
                   for row in result["dreamers"]): continue
            row = one_dreamer(body, how, n, epochs, seed)
            result["dreamers"].append(dict(how=how, seed=seed, stories=n, epochs=epochs) | row)
            write("tags", result)
        for n, at in ((n, at) for n in (8, 32, 128) for at in ("last token", "first token")):
            if any((row["stories"], row["read at"], row["seed"]) == (n, at, seed)
                   for row in result["names"]): continue
            row = {"stories": n, "read at": at, "seed": seed} | few_names(body, n, at, seed)
            result["names"].append(row)
            write("tags", result)


def few_names(body: Run, n: int, at: str, seed: int) -> dict:
    "Names, places, things from n stories, 64 updates, read at a word's last or first token."
    rows, test = (tagged(finetuning.tags_of, *which) for which in ((seed, n), (0, 300, True)))
    encoder = FirstToken if at == "first token" else finetuning.Encoder
    with patch.object(finetuning, "Encoder", encoder):
        return one_tagger(body.model, body.tok, rows, test, 1024 // n, seed)


def one_dreamer(body: Run, how: str, n: int, epochs: int, seed: int) -> dict:
    "Tag each name as that of the one who dreams or of the other."
    rows = tagged(finetuning.dreamer_tags, seed, n)
    test = tagged(finetuning.dreamer_tags, 0, 300, True)
    if how == "read twice":
        for row in rows + test: row["words"] = finetuning.read_twice(row["words"], "en")
    gpt = finetuning.two_sided(body.model) if how == "no mask" else body.model
    return one_tagger(gpt, body.tok, rows, test, epochs, seed)
LABELS = 64   # stories to learn from: enough for a body that was trained, few for its head alone
MOODS = dict(task="classify", val=0, epochs=8, batch_size=16, show=False, optimizer="adamw")


def ways() -> dict[tuple, tuple]:
    "(Method, size) -> what is put on a GPT, its rate, what else is learned."
    found = {("nothing but the head", 0): (None, 0.02, "head"), ("last block", 1): (None, 3e-3, 1),
             ("all", 0): (None, 1e-3, "all"), ("IA3", 0): (add_ia3, 0.1, "all")}
    for method, add, rate, sizes in [
            ("LoRA", add_lora, 3e-3, (1, 2, 4, 8)), ("AdaLoRA", add_adalora, 0.01, (1, 2, 4)),
            ("bottleneck", add_bottleneck, 0.01, (1, 4, 16)), ("prefix", add_prefix, 0.1, (2, 8)),
            ("prompt", add_prompt, 0.1, (2, 8))]:
        for size in sizes: found[method, size] = partial(add, **{SIZES[method]: size}), rate, "all"
    return found


SIZES = {"LoRA": "rank", "AdaLoRA": "rank", "bottleneck": "width", "prefix": "length",
         "prompt": "length"}


def adapters() -> None:
    "All methods on one body and 64 labels; the singular values of the full update."
    world, tok = Tales(level=2), load_tokenizer("tales-en")
    body = GPT.from_pretrained("tales-en", dtype=torch.float32)
    test = mood_rows(world, range(3_000_000, 3_000_250))
    found = so_far("adapters") or dict(labels=LABELS, test=len(test), rows=[])
    for seed in SEEDS:
        first = 1_000_000 + 1000 * seed
        rows = mood_rows(world, range(first, first + LABELS))
        for (method, size), (add, rate, learn) in ways().items():
            job = dict(method=method, size=size, seed=seed)
            if stands(found["rows"], job): continue
            torch.manual_seed(seed)
            model = add(copy.deepcopy(body)) if add else body
            start = process_time()
            run = finetune(model, rows, tok=tok, learn=learn, lr=rate, seed=seed, **MOODS)
            seconds = process_time() - start
            trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
            found["rows"].append(job | dict(
                rate=rate, trained=trained, score=share_right(run, test),
                loss=run.history[-1]["loss"], seconds=round(seconds, 1)))
            if method == "all" and not seed: found |= low_rank(run, body, test)
            write("adapters", found)


def share_right(run: Run, test: list[dict]) -> float:
    "Accuracy on stories that were told with other seeds."
    said = predict(run, [row["text"] for row in test])
    return sum(a == row["label"] for a, row in zip(said, test)) / len(test)


@torch.no_grad()
def low_rank(run: Run, body: GPT, test: list[dict]) -> dict:
    "The change of each matrix in singular values, and the score that its first few keep."
    before, spectrum, parts = dict(body.named_parameters()), {}, {}
    for name, after in run.model.named_parameters():
        if after.ndim < 2 or ".layers." not in name: continue
        parts[name] = after, torch.linalg.svd(after - before[name], full_matrices=False)
        layer = name.removeprefix("model.layers.").removesuffix(".weight")
        spectrum[layer] = dict(weight=torch.linalg.svdvals(before[name])[:48].tolist(),
                               change=parts[name][1].S[:48].tolist())
    truncated = []
    for rank in (0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 128):
        for name, (after, (U, S, V)) in parts.items():
            after.copy_(before[name] + (U[:, :rank] * S[:rank]) @ V[:rank])
        truncated.append(dict(rank=rank, score=share_right(run, test)))
    return dict(spectrum=spectrum, truncated=truncated)


def asked(model: GPT, tok, shots: int) -> dict:
    "How often the likeliest answer is right, with so many solved questions in the prompt."
    rows = pairs_of("question", seeds=TESTED[:50])
    solved = pairs_of("question", seeds=range(1_000_000, 1_000_000 + shots))
    choices = [choices_for(row) for row in rows]
    picked = likeliest(model, tok, [with_shots(solved, row["text"]) for row in rows], choices)
    right = [some[i] == row["target"] for some, i, row in zip(choices, picked, rows)]
    chance = [1 / len(some) for some in choices]
    return dict(shots=shots, right=float(np.mean(right)), chance=float(np.mean(chance)))


def written(model: GPT, tok, task: str, shots: int) -> dict:
    "The score of what is written, with so many solved examples in the prompt."
    rows = pairs_of(task, seeds=TESTED[:20])
    solved = pairs_of(task, seeds=range(1_000_000, 1_000_000 + shots))
    said = generate(model, [with_shots(solved, row["text"]) for row in rows], 60, temperature=0,
                    tok=tok)
    said = [text.split("\n")[0] for text in said]
    scores = text_scores(task, rows, said)
    return dict(task=task, shots=shots, score=next(iter(scores.values())), said=said[0])


def prompts() -> None:
    "Nothing trained: 0, 1, 4 and 16 solved examples in the prompt."
    model, tok = GPT.from_pretrained("tales-short", torch.float32), load_tokenizer("tales-short")
    model.config = model.model.config = replace(model.config, context=4096)
    found = so_far("prompts") or dict(asked=[], written=[])
    for shots in (0, 1, 4, 16):
        if shots not in [row["shots"] for row in found["asked"]]:
            found["asked"].append(asked(model, tok, shots))
        for task in TEXT_TASKS:
            if (task, shots) in [(row["task"], row["shots"]) for row in found["written"]]: continue
            found["written"].append(written(model, tok, task, shots))
            write("prompts", found)


def speedrun() -> None:
    "The recipe of chapter 21, what each part of it saves, and the reference."
    from racing import measure
    measure(so_far("speedrun"), partial(write, "speedrun"), SEEDS)


if __name__ == "__main__":
    work = dict(ladder=ladder, emergence=emergence, code=code, block=block, choices=choices,
                text=text, stream=stream, tags=tags, adapters=adapters,
                prompts=prompts, finetuning=rows_of_tasks, speedrun=speedrun)
    for name in choose(work, "measurement", __doc__): work[name]()
