"""The long measurements of chapters 13b to 13d: `python tools/interpret.py NAME ...` (`make
interpret`; none named: all). First three small models of level 1 are trained from three seeds into
runs/interpret/seedN, with copies kept along the way; what is done with them goes to
nbs/results/NAME.json.

A training that was stopped goes on; take a file or a folder away to measure anew."""
import random

import torch
from models import ROOT, choose, prepare
from results import SEEDS, so_far, write

from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.data import longest_document
from gpt_nb.emergence import share_that_holds, write_stories
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.probing import (Outlook, Readings, Site, beliefs, beside, by_position, directions,
                            read_belief, read_stories, sites, steer, told_chance)
from gpt_nb.tales import Tales
from gpt_nb.training import Run, TrainConfig, train

FOLDER = ROOT / "runs" / "interpret"
SHAPE = dict(n_layer=4, d_model=96, n_head=6, tie_embeddings=False)
KEEP = (25, 50, 100, 150, 200, 300, 400, 600, 800, 1200, 2000, 3000)   # updates between looks
SETTINGS = dict(steps=KEEP[-1], batch_size=32, lr=0.02, muon_lr=0.01, eval_every=500, keep=KEEP)


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
    outlook = Outlook(lessons.world, lambda scene: float(scene.granted()))
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
    write("probing", result | {"tales-en": house_model()})


WORK = {"models": models, "probing": probing}

if __name__ == "__main__":
    for name in choose(WORK, "measurement", __doc__): WORK[name]()
