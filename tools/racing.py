"""The contestants of chapter 21 and what became of them: `python tools/results.py speedrun`.

On `pydocs`, on one thread, seeds 0, 1 and 2: the recipe, the recipe with one thing taken away, the
reference, and the recipe in its shape; with seed 0 the recipe run shorter and longer, and the steps
from the reference to it. About ten minutes on a quiet core.
What has been measured is kept and not measured again."""
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt_nb.attention import Attention, RMSNorm, rope
from gpt_nb.block import MLP, Block
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.speedrun import (CONTEXT, RECIPE, Entry, Racer, SideBySide, normed, optimizers_of,
                             race, race_text, reference)
from gpt_nb.training import Muon, TrainConfig, make_optimizers

LOOKS = (10, 20, 40, 60, 80, 100, 125, 150, 175, 200, 250, 300, 400, 500, 700, 1000, 1300, 1600)
MUON = TrainConfig(steps=500, batch_size=12)   # chapter 09's own settings
SMALL = replace(MUON, steps=900, batch_size=24)


def gpt(config: TrainConfig, layers: int, width: int, heads: int) -> Callable[[int, int], Entry]:
    "GPT-2's block, trained as `config` says."
    def make(vocab_size: int, seed: int) -> Entry:
        torch.manual_seed(seed)
        shape = GPTConfig("gpt2", vocab_size, CONTEXT, n_layer=layers, n_head=heads, d_model=width)
        model = GPT(shape)
        return Entry(model, make_optimizers(model, config), replace(config, seed=seed))
    return make


def racer(
    config: TrainConfig = RECIPE,
    layer: Callable[[int, int, int], nn.Module] = SideBySide,   # of width, heads, hidden features
    layers: int = 1, width: int = 64,
    optimizers: Callable = optimizers_of,
    **changes,                                                  # of `Racer`
) -> Callable[[int, int], Entry]:
    "The recipe, with something changed."
    def make(vocab_size: int, seed: int) -> Entry:
        torch.manual_seed(seed)
        heads = width // 32
        made = [layer(width, heads, 4 * width) for _ in range(layers)]
        model = Racer(vocab_size, made, width, heads, **changes)
        return Entry(model, optimizers(model, config), replace(config, seed=seed))
    return make


def gelu_layer(width: int, heads: int, hidden: int) -> SideBySide:
    return SideBySide(width, heads, hidden, activation=F.gelu)


def block_of_06(width: int, heads: int, hidden: int) -> Block:
    "Attention first, then the feed-forward, norms with weights."
    attention = Attention(width, heads, qk_norm=True)
    layer = Block(attention, MLP(width, hidden, bias=False), RMSNorm(width), RMSNorm(width))
    for writer in (layer.self_attn.o_proj, layer.mlp.down_proj): nn.init.zeros_(writer.weight)
    return layer


class NoLength(SideBySide):
    "Queries and keys of any length."
    def turn(self, x: Tensor, rotation: tuple) -> Tensor: return rope(x, *rotation)


class NoPlaces(SideBySide):
    "Nothing says where a character stands."
    def turn(self, x: Tensor, rotation: tuple) -> Tensor: return normed(x)


class Early(SideBySide):
    "A layer that adds something from the start."
    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__(width, heads, hidden)
        nn.init.normal_(self.out_proj.weight, std=(width + hidden) ** -0.5)


def only_adamw(model: Racer, config: TrainConfig) -> list[torch.optim.Optimizer]:
    "AdamW for the matrices too, at half of its rate for tables and head."
    adamw, muon = optimizers_of(model, config)
    inner = muon.param_groups[0]["params"]
    adamw.add_param_group(dict(params=inner, lr=config.lr / 2, peak=config.lr / 2))
    return [adamw]


def slow_muon(model: Racer, config: TrainConfig) -> list[torch.optim.Optimizer]:
    "Muon as chapter 09 has it: five equal steps."
    adamw, quick = optimizers_of(model, config)
    slow = Muon(quick.param_groups[0]["params"], config.muon_lr, dtype=torch.float32)
    slow.param_groups[0]["peak"] = config.muon_lr
    return [adamw, slow]


LENGTHS = {"two thirds": 180, "half more": 405}   # the recipe run shorter and longer
LEFT_OUT = {
    "AdamW instead of Muon": racer(optimizers=only_adamw),
    "no characters before, no pairs": racer(before=0, pairs=0),
    "no pairs": racer(pairs=0),
    "no characters before": racer(before=0),
    "AdamW's rate a fifth": racer(replace(RECIPE, lr=RECIPE.lr / 5)),
    "the rates never fall": racer(replace(RECIPE, decay=0.0)),
    "twice as wide": racer(width=128),
    "two layers": racer(layers=2),
    "block of chapter 06": racer(layer=block_of_06),
    "GELU instead of squares": racer(layer=gelu_layer),
    "Muon with five steps": racer(optimizers=slow_muon),
    "queries and keys of any length": racer(layer=NoLength),
    "no places": racer(layer=NoPlaces),
    "layers that do not begin at 0": racer(layer=Early),
    "warm-up of 40": racer(replace(RECIPE, warmup=40)),
}
STAIRS = {
    "Muon": gpt(MUON, 4, 128, 4),
    "one layer of 64": gpt(SMALL, 1, 64, 2),
    "side by side, no weights in norms": racer(replace(SMALL, steps=600), before=0, pairs=0,
                                               optimizers=slow_muon),
    "three characters before": racer(replace(SMALL, steps=350), pairs=0, optimizers=slow_muon),
    "pairs": racer(replace(SMALL, steps=300), optimizers=slow_muon),
    "higher rates": racer(optimizers=slow_muon),
}


OWN_SHAPE = racer(replace(RECIPE, steps=220, batch_size=12), layers=4, width=128)   # nanoGPT's


def contestants(seed: int) -> Iterator[tuple[str, str, Callable[[int, int], Entry]]]:
    "Kind, name, and what makes it."
    yield "recipe", "the recipe", racer()
    for name, make in LEFT_OUT.items(): yield "left out", name, make
    yield "reference", "the reference", reference
    yield "own shape", "as large as the reference", OWN_SHAPE
    if seed: return
    for name, steps in LENGTHS.items(): yield "length", name, racer(replace(RECIPE, steps=steps))
    for name, make in STAIRS.items(): yield "stairs", name, make


def measure(found: dict, write: Callable[[dict], None], seeds: tuple[int, ...]) -> None:
    "Run what has not been run, and keep each result at once."
    torch.set_num_threads(1)
    tok, tokens = race_text("pydocs")
    found |= dict(train=len(tokens.train), val=len(tokens.val), vocab_size=tok.vocab_size)
    rows = found.setdefault("rows", [])
    have = {(row["kind"], row["name"], row["seed"]) for row in rows}
    for seed in seeds:
        for kind, name, make in contestants(seed):
            if (kind, name, seed) in have: continue
            entry = make(tok.vocab_size, seed)
            laps = list(race(entry, tokens, () if kind == "left out" else LOOKS))
            size = sum(p.numel() for p in entry.model.parameters())
            rows.append(dict(kind=kind, name=name, seed=seed, parameters=size,
                             updates=entry.config.steps, cpu=laps[-1].cpu, wall=laps[-1].wall,
                             loss=laps[-1].loss, laps=[[lap.step, lap.loss] for lap in laps]))
            write(found)
