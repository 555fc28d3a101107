"""The long measurements of chapters 13b to 13d: `python tools/interpret.py NAME ...` (`make
interpret`; none named: all). First three small models of level 1 are trained from three seeds into
runs/interpret/seedN, with copies kept along the way; what is done with them goes to
nbs/results/NAME.json.

A training that was stopped goes on; take a file or a folder away to measure anew."""
import torch
from models import ROOT, choose, prepare
from results import SEEDS, so_far, write

from gpt_nb.circuits import (carriers, choice_accuracy, induction, last_choices, lost_by_kind,
                             mean_mixed, needed_heads, patch_heads, patch_map, random_heads,
                             repeated_rows, story_pairs, true_stories, without_heads)
from gpt_nb.data import longest_document
from gpt_nb.emergence import share_that_holds, write_stories
from gpt_nb.interpret import trace
from gpt_nb.model import GPT, GPTConfig
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


def along(seed: int) -> dict:
    "Induction in the copies of one model, and before training."
    result = {}
    for step in (0, *KEEP):
        model, tok = of_seed(seed, step or KEEP[0])
        torch.manual_seed(seed)
        if not step: model = GPT(model.config).eval()
        some = induction(model, repeated_rows(tok.vocab_size, 25, 100, tok.end_id))
        result[str(step)] = {"best head": some.scores.max().item(),
                             "mean": some.scores.mean().item(), "gained": some.gained}
    return result


def circuits() -> None:
    "Heads that carry a fact, ablation, and induction, in three seeds."
    result = so_far("circuits")
    for seed in SEEDS:
        if f"seed {seed}" in result: continue
        result[f"seed {seed}"] = circuit(seed) | {"induction": along(seed)}
        write("circuits", result)
        print(f"seed {seed}:", result[f"seed {seed}"], flush=True)


WORK = {"models": models, "circuits": circuits}

if __name__ == "__main__":
    for name in choose(WORK, "measurement", __doc__): WORK[name]()
