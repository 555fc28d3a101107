"""The long measurements of chapters 13b to 13d: `python tools/interpret.py NAME ...` (`make
interpret`; none named: all). First three small models of level 1 are trained from three seeds into
runs/interpret/seedN, with copies kept along the way; what is done with them goes to
nbs/results/NAME.json.

A training that was stopped goes on; take a file or a folder away to measure anew."""
import random
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from models import PYDOCS, ROOT, choose, prepare
from models import fit as train_house
from results import SEEDS, so_far, write

from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.circuits import (carriers, choice_accuracy, induction, last_choices, lost_by_kind,
                             mean_mixed, needed_heads, patch_heads, patch_map, random_heads,
                             repeated_rows, story_pairs, true_stories, without_heads)
from gpt_nb.data import longest_document
from gpt_nb.emergence import share_that_holds, write_stories
from gpt_nb.features import (SparseAutoencoder, StreamReading, best_cosines, best_units,
                             fact_table, fit_features, group_of, linear_scores, loss_with,
                             random_dictionary, read_stream, share_by_group, variance_explained)
from gpt_nb.interpret import trace
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.probing import (Prospects, Readings, Site, beliefs, beside, by_position, directions,
                            read_belief, read_stories, sites, steer, told_chance)
from gpt_nb.tales import Tales
from gpt_nb.training import Run, TrainConfig, train

FOLDER = ROOT / "runs" / "interpret"
SHAPE = dict(n_layer=4, d_model=96, n_head=6, tie_embeddings=False)
KEEP = (25, 50, 100, 150, 200, 300, 400, 600, 800, 1200, 2000, 3000)   # updates between looks
SETTINGS = dict(steps=KEEP[-1], batch_size=32, lr=0.02, muon_lr=0.01, eval_every=500, keep=KEEP,
                precision="bfloat16", compile=True)   # both: an update in half the time


def fit(seed: int, tok, tokens) -> Run:
    "Train one model from its seed, or go on where it was stopped."
    out = FOLDER / f"seed{seed}"
    ends = dict(bos_token_id=tok.end_id, eos_token_id=tok.end_id)
    torch.manual_seed(seed)
    model = GPT(GPTConfig("qwen3", tok.vocab_size, longest_document(tokens), **ends, **SHAPE))
    config = TrainConfig(seed=seed, **SETTINGS)
    resume = (out / "state").is_dir()
    return train(model, tokens, config, tok, out=out, resume=resume, options=dict(data="tales"))


def models() -> None:
    "The three models, and what holds of the stories they tell."
    tok, tokens = prepare("tales", "word")
    for seed in SEEDS:
        run = fit(seed, tok, tokens)
        holds = share_that_holds(Tales(), write_stories(run.model, tok, 300, seed=0))
        print(f"seed {seed}: validation loss {run.history[-1]['val_loss']:.4f},", holds, flush=True)


def of_seed(seed: int, step: int = KEEP[-1]) -> tuple:
    "A model as it was after so many updates, and its tokenizer."
    run = Run.open(FOLDER / f"seed{seed}")
    copy = FOLDER / f"seed{seed}" / "checkpoints" / f"{step:06d}"
    return GPT.from_pretrained(copy, dtype=torch.float32).eval(), run.tok


# chapter 13b: the heads that carry a fact, in three seeds of the model
def head_names(heads) -> list[str]:
    "As text."
    return [f"{i}.{h}" for i, h in heads]


def taken_away(model: GPT, tok, means, heads: list, choices, rows) -> dict:
    "What is left of choices, of stories that are told, and of grammar and world."
    replace = without_heads(means, heads)
    with trace(model, [], replace): told = write_stories(model, tok, 200, seed=1)
    lost = lost_by_kind(model, rows, replace)
    return dict(right=choice_accuracy(model, choices, replace),
                **share_that_holds(Tales(), told)._asdict(),
                grammar=lost["grammar"], world=lost["world"])


def beside_random(model: GPT, tok, means, heads: list, choices, rows) -> dict:
    "Named heads taken away; twenty draws of as many others, of which three tell stories."
    draws = [random_heads(model, len(heads), seed, besides=heads) for seed in range(20)]
    right = [choice_accuracy(model, choices, without_heads(means, draw)) for draw in draws]
    some = [taken_away(model, tok, means, draw, choices, rows)["sentences"] for draw in draws[:3]]
    return dict(heads=head_names(heads), away=taken_away(model, tok, means, heads, choices, rows),
                random=right, random_sentences=some)


def circuit(seed: int) -> dict:
    "What chapter 13b tells of one model."
    model, tok = of_seed(seed)
    world, pairs = Tales(), story_pairs(Tales(), tok, range(100_000, 100_060))
    effect, means = patch_heads(model, pairs), mean_mixed(model, tok, world.texts(200, seed=4))
    naming = last_choices(world, tok, range(200_000, 200_600))
    unseen = last_choices(world, tok, range(300_000, 300_800))
    rows, fresh = (true_stories(world, tok, range(a, a + 40)) for a in (500_000, 600_000))
    found = dict(carry=carriers(effect), needed=needed_heads(model, naming, rows, means))
    base = lost_by_kind(model, fresh)
    alone = {head: lost_by_kind(model, fresh, without_heads(means, [head])) for head in effect}
    return dict(
        map=patch_map(model, pairs).tolist(), effect=dict(zip(head_names(effect), effect.values())),
        whole=taken_away(model, tok, means, [], unseen, fresh),
        single={name: choice_accuracy(model, unseen, without_heads(means, [head]))
                for name, head in zip(head_names(effect), effect)},
        rise={name: {kind: lost[kind] - base[kind] for kind in base}
              for name, lost in zip(head_names(alone), alone.values())},
        **{kind: beside_random(model, tok, means, heads, unseen, fresh)
           for kind, heads in found.items()})


def along(opened: Callable[[int], tuple], seed: int) -> dict:
    "Induction along a training: the untrained model, then each copy that was kept."
    result = {}
    for step in (0, *KEEP):
        model, tok = opened(step or KEEP[0])
        torch.manual_seed(seed)
        if not step: model = GPT(model.config).eval()
        some = induction(model, repeated_rows(tok.vocab_size, 25, 100, tok.end_id))
        result[str(step)] = {"best head": some.scores.max().item(),
                             "mean": some.scores.mean().item(), "gained": some.gained}
    return result


def of_manual(step: int) -> tuple:
    "The house model `pydocs` trained once more, in bfloat16, as it was after so many updates."
    how = dict(keep=KEEP, precision="bfloat16", compile=True)
    spec = PYDOCS | dict(settings=PYDOCS["settings"] | how)
    folder = ROOT / "runs" / "models" / "pydocs-kept"
    if not (folder / "training.json").is_file():
        train_house("pydocs-kept", spec, *prepare(spec["data"], spec["tokenizer"]))
    copy = folder / "checkpoints" / f"{step:06d}"
    return GPT.from_pretrained(copy, dtype=torch.float32).eval(), load_tokenizer(folder)


def circuits() -> None:
    "Heads that carry a fact, ablation, and induction, in three seeds; induction in a manual."
    result = so_far("circuits")
    for seed in SEEDS:
        if f"seed {seed}" in result: continue
        induced = along(partial(of_seed, seed), seed)
        result[f"seed {seed}"] = circuit(seed) | {"induction": induced}
        write("circuits", result)
        print(f"seed {seed}:", result[f"seed {seed}"], flush=True)
    if "pydocs" not in result: result["pydocs"] = {"induction": along(of_manual, 0)}
    write("circuits", result)


# chapter 13d: dictionaries of the stream, in three seeds of them and of the model
WIDTHS = (128, 256, 512, 1024)
FITTED = dict(k=8, steps=600)


class Ground(NamedTuple):
    "A model's stream as it reads stories, and all that is true there."
    model: GPT
    at: str
    reading: StreamReading
    facts: list[str]
    table: torch.Tensor    # (N, V)
    chosen: torch.Tensor   # (N,)

    def f1(self, units: torch.Tensor) -> dict[str, float]:   # (N, U)
        "Mean F1 of the best unit, by group of facts."
        return by_group(best_units(units, self.table, self.chosen).f1, self.facts)


def ground(model: GPT, tok, at: str, n: int = 1000) -> Ground:
    "Let a model read stories."
    stories = [Tales().sample(seed) for seed in range(n)]
    reading = read_stream(model, tok, [story.text for story in stories], at)
    return Ground(model, at, reading, *fact_table(stories), reading.story % 2 == 0)


def by_group(f1: torch.Tensor, facts: list[str]) -> dict[str, float]:   # (V,)
    "Means over the facts of each group."
    groups = [group_of(fact) for fact in facts]
    return {group: sum(x for x, own in zip(f1.tolist(), groups) if own == group)
            / groups.count(group) for group in sorted(set(groups))}


def matching(a: torch.Tensor, b: torch.Tensor) -> dict:   # (N, F), (N, G) at the same words
    "For each feature of one dictionary its best correlation with one of the other."
    a, b = (units[:, (units > 0).sum(0) >= 20] for units in (a, b))
    best = best_cosines((a - a.mean(0)).T, (b - b.mean(0)).T)
    return {"mean": best.mean().item(), "above 0.7": (best > 0.7).float().mean().item()}


def quality(g: Ground, sae: SparseAutoencoder) -> dict:
    "How well a dictionary does on stories that it was not trained on."
    x, unseen = g.reading.x, g.reading.x[~g.chosen]
    held = g.reading._replace(rows=g.reading.rows[1::4], mask=g.reading.mask[1::4])
    mean, on = x.mean(0), sae.encode(unseen) > 0
    return {"variance explained": variance_explained(unseen, sae(unseen)),
            "dead": (on.sum(0) == 0).float().mean().item(), "loss": loss_with(g.model, held),
            "loss with features": loss_with(g.model, held, {g.at: sae}),
            "loss with the mean": loss_with(g.model, held, {g.at: lambda x: mean.expand_as(x)})}


def dictionary(model: GPT, tok, at: str, seed: int) -> tuple:
    "The scores of one dictionary and of what stands beside it; what is on, of it and by chance."
    g = ground(model, tok, at)
    x, chosen = g.reading.x, g.chosen
    sae = fit_features(x[chosen], 256, seed=seed, **FITTED)
    torch.manual_seed(seed)
    chance = random_dictionary(sae)
    raw = read_stream(GPT(model.config).eval(), tok, texts_of(tok, g.reading), at).x
    of_raw = fit_features(raw[chosen], 256, seed=seed, **FITTED)
    features, centred, p = sae.encode(x), x - x.mean(0), g.table[~chosen].mean(0)
    units = {"random directions": chance.encode(x), "untrained model": of_raw.encode(raw),
             "single numbers": torch.cat([centred, -centred], 1), "features": features,
             "linear probe": linear_scores(x, g.table, chosen)}
    f1 = {"always yes": by_group(2 * p / (1 + p), g.facts)}
    f1 |= {name: g.f1(values) for name, values in units.items()}
    word = share_by_group(features, g.reading.ids, chosen)[(features[chosen] > 0).sum(0) >= 20]
    scores = {**quality(g, sae), "F1": f1, "explained by the word": word.median().item(),
              "features that are 0.8 the word": (word > 0.8).float().mean().item()}
    return scores, features, units["random directions"]


def texts_of(tok, reading: StreamReading) -> list[str]:
    "The texts that were read."
    return [tok.decode(row[mask].tolist()) for row, mask in zip(reading.rows, reading.mask)]


def three(opened: list[tuple], at: str) -> dict:
    "Dictionaries of three seeds, and how far each is found again in the next."
    runs = [dictionary(*model, at, seed) for seed, model in zip(SEEDS, opened)]
    pairs = [(0, 1), (1, 2), (2, 0)]
    return {"runs": [run[0] for run in runs],
            "matching": [matching(runs[a][1], runs[b][1]) for a, b in pairs],
            "matching of random directions": [matching(runs[a][2], runs[b][2]) for a, b in pairs]}


def siblings(g: Ground, on: torch.Tensor) -> tuple[dict, torch.Tensor]:   # on: (N, F) -> (F,)
    "How many features a word has for itself; which of the features share their word."
    words = g.table[:, [group_of(fact) == "this word" for fact in g.facts]]
    own = (on.T @ words / on.sum(0)[:, None].clamp(min=1) > 0.8) & (on.sum(0)[:, None] >= 20)
    several = own.sum(0) >= 2                                              # (words,)
    counts = {"features a word": own.float().sum(0).mean().item(),
              "words with two or more": several.float().mean().item()}
    return counts, own[:, several].any(1)


def widths(model: GPT, tok, at: str) -> dict:
    "Narrow and wide dictionaries: do features split, and by what are the parts told apart?"
    g, result = ground(model, tok, at), {}
    ids, rows, mask = g.reading.ids, g.reading.rows, g.reading.mask
    before = torch.cat([rows[:, :1], rows[:, :-1]], 1)[mask]
    state = g.table[:, [group_of(fact) == "the state" for fact in g.facts]]
    code = (state @ 2.0 ** torch.arange(state.shape[1])).long()
    groups = {"the word": ids, "and the one before": ids * 1000 + before,
              "and the state": ids * 1000 + code}
    for width in WIDTHS:
        sae = fit_features(g.reading.x[g.chosen], width, **FITTED)
        units = sae.encode(g.reading.x)
        counts, shared = siblings(g, (units > 0).float())
        parts = {name: share_by_group(units[:, shared], group, g.chosen).median().item()
                 for name, group in groups.items()}
        result[str(width)] = {**quality(g, sae), "F1": g.f1(units), **counts, "siblings": parts}
    return result


def features() -> None:
    "Dictionaries of `growing`, then of the three models; what is measured is not measured again."
    growing = (GPT.from_pretrained("growing/003000", dtype=torch.float32).eval(),
               load_tokenizer("growing/003000"))
    plan = {"growing": lambda: three([growing] * 3, "layers.0.resid"),
            "widths": lambda: widths(*growing, "layers.0.resid")}
    for layer in (1, 2):
        plan[f"layer {layer}"] = lambda at=f"layers.{layer}.resid": three(
            [of_seed(seed) for seed in SEEDS], at)
    found = so_far("features")
    for name, measure in plan.items():
        if name in found: continue
        found[name] = measure()
        write("features", found)
        print(name, found[name], flush=True)


# chapter 13c: probes, steering, the belief
TAUGHT, READ = 900, 1200   # stories that teach a probe; those and the ones that test it
FACTS = {"holder": "Now", "together": "Now", "granted": "Only"}   # asked at this word
AROUND = range(-1, 10)     # positions around Now: from the last event's full stop to the end


def opposites(found: list[Site], lessons: Readings, fact: str) -> list[str]:
    "What each site is pushed to."
    if fact == "granted": return ["yes" if site.label == "no" else "no" for site in found]
    names = [[lessons.stories[site.row].known["name", i].en for i in (0, 1)] for site in found]
    return [two[1 - two.index(site.label)] for two, site in zip(names, found)]


def steered(lessons: Readings, fact: str, alphas: tuple[int, ...] = (2, 4)) -> dict:
    "Endings under a push, by layer, direction and length; and without one."
    found = sites(lessons.tok, lessons.stories, fact, FACTS[fact])
    found = [site for site in found if site.label != "nobody"]
    others = opposites(found, lessons, fact)
    test = [i for i, site in enumerate(found) if site.row >= 1050]
    some, result = [found[i] for i in test], {}
    for layer in range(lessons.model.config.n_layer):
        pushes = directions(lessons, found, others, layer, TAUGHT)
        result[f"layer {layer}"] = {
            kind: {str(alpha): steer(lessons, some, alpha * x[test], layer, fact)._asdict()
                   for alpha in alphas} for kind, x in pushes.items()}
    still = steer(lessons, some, 0 * pushes["means"][test], layer, fact)
    return {"no push": still._asdict(), "pushed": result}


def believed(lessons: Readings, n: int = 60) -> dict:
    "How well the exact chance that the dream comes true is read, and what the model would do."
    outlook = Prospects(lessons.world, lambda scene: float(scene.granted()))
    belief = beliefs(lessons.tok, lessons.stories, outlook)
    rng = random.Random(0)
    asked = rng.sample(range(len(belief.found)), n)
    told = [told_chance(lessons, belief.found[i], outlook.fact, seed=i) for i in asked]
    missed = (belief.chance[asked, 0] - torch.tensor(told)).square().mean()
    return read_belief(lessons, belief, TAUGHT) | {
        "told to the end": 1 - (missed / belief.chance.var(correction=0)).item()}


def probed(lessons: Readings) -> dict:
    "What chapter 13c tells of one model."
    found = {fact: sites(lessons.tok, lessons.stories, fact, word) for fact, word in FACTS.items()}
    stands = [site for site in found["holder"]
              if lessons.stories[site.row].events[-2].kind == "stands"]
    return dict(
        facts={fact: beside(lessons, asked, TAUGHT, 3) for fact, asked in found.items()},
        map=by_position(lessons.stream, stands, AROUND, TAUGHT),
        map_untrained=by_position(lessons.untrained, stands, AROUND, TAUGHT),
        belief=believed(lessons),
        steering={fact: steered(lessons, fact) for fact in ("granted", "holder")})


def house_model() -> dict:
    "The facts in the house model of level 2: fifty names, two things, longer stories."
    model = GPT.from_pretrained("tales-en", dtype=torch.float32).eval()
    lessons = read_stories(Tales(level=2), model, load_tokenizer("tales-en"), READ)
    words = FACTS | {"granted": "only"}
    return {fact: beside(lessons, sites(lessons.tok, lessons.stories, fact, word), TAUGHT, 3)
            for fact, word in words.items()}


def probing() -> None:
    "Probes, steering and belief, in three seeds; the facts in a house model."
    result = so_far("probing")
    for seed in SEEDS:
        if f"seed {seed}" in result: continue
        model, tok = of_seed(seed)
        result[f"seed {seed}"] = probed(read_stories(Tales(), model, tok, READ))
        write("probing", result)
        print(f"seed {seed}:", result[f"seed {seed}"]["facts"], flush=True)
    if "tales-en" not in result: write("probing", result | {"tales-en": house_model()})


WORK = {"models": models, "circuits": circuits, "probing": probing, "features": features}

if __name__ == "__main__":
    for name in choose(WORK, "measurement", __doc__): WORK[name]()
