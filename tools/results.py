"""Regenerate the measurements that take longer than a notebook may:
`python tools/results.py ladder emergence code block choices adapters` (none named: all).

Each writes nbs/results/NAME.json from seeds 0, 1 and 2; the chapters draw it and assert what they
say of it. What stands in that file is kept, and a training that was stopped goes on from its last
saved state in runs/results; take the file away to measure anew."""
import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import chdir
from functools import lru_cache, partial
from time import process_time

import numpy as np
import torch
from models import ROOT, choose, prepare

from gpt_nb.adapters import (add_adalora, add_bottleneck, add_ia3, add_lora, add_prefix,
                             add_prompt)
from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.cli import cache_folder, make_tokenizer, shape_of, training_part
from gpt_nb.data import Tokens, load_texts, longest_document, tokenize, world_of
from gpt_nb.emergence import (PythonHolds, check_python, share_that_holds, write_functions,
                              write_stories)
from gpt_nb.evaluation import counted_rungs, evaluate, floor, rungs, trained_rungs
from gpt_nb.finetuning import finetune, predict
from gpt_nb.model import GPT, GPTConfig, flops_per_token
from gpt_nb.ngram import NGram, bits_per_byte
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
    if isinstance(x, dict): return {k: round_all(v) for k, v in x.items()}
    return [round_all(v) for v in x] if isinstance(x, (list, tuple)) else x


def write(name: str, content: dict) -> None:
    "Keep what was measured so far."
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(round_all(content), ensure_ascii=False, separators=(",", ":"))
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def so_far(name: str) -> dict:
    "What an earlier run has measured."
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


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


LABELS = 64   # stories to learn from: enough for a body that was trained, few for its head alone
MOODS = dict(task="classify", val=0, epochs=8, batch_size=16, show=False)


def told_until_content(world: Tales, seeds: range) -> list[dict]:
    "Stories up to the name of who is content at the end, and whether the wish was granted."
    rows = []
    for story in map(world.sample, seeds):
        end = story.text.index(" ", story.text.rindex(" only ") + 6)
        rows.append(dict(text=story.text[:end], label=story.mood))
    return rows


def ways() -> dict[tuple, tuple]:
    "(Method, size) -> what is put on a GPT, its rate, what else is learned."
    found = {("nothing but the head", 0): (None, 0.02, "head"), ("last block", 1): (None, 3e-3, 1),
             ("all", 0): (None, 1e-3, "all"), ("IA3", 0): (add_ia3, 0.03, "all")}
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
    test = told_until_content(world, range(3_000_000, 3_000_250))
    found = so_far("adapters") or dict(labels=LABELS, test=len(test), rows=[])
    have = {(row["method"], row["size"], row["seed"]) for row in found["rows"]}
    for seed in SEEDS:
        first = 1_000_000 + 1000 * seed
        rows = told_until_content(world, range(first, first + LABELS))
        for (method, size), (add, rate, learn) in ways().items():
            if (method, size, seed) in have: continue
            torch.manual_seed(seed)
            model = add(copy.deepcopy(body)) if add else body
            start = process_time()
            run = finetune(model, rows, tok=tok, learn=learn, lr=rate, seed=seed, **MOODS)
            seconds = process_time() - start
            trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
            found["rows"].append(dict(method=method, size=size, seed=seed, rate=rate,
                                      trained=trained, score=share_right(run, test),
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


if __name__ == "__main__":
    work = dict(ladder=ladder, emergence=emergence, code=code, block=block, choices=choices,
                adapters=adapters)
    for name in choose(work, "measurement", __doc__): work[name]()
