"""Several processes train the model that one trains: shown on the CPU with gloo."""
import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from gpt_nb.data import tokenize
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.scaling import all_reduce_by_hand, launch, ring_all_reduce, train_on
from gpt_nb.tales import Tales
from gpt_nb.tokenizer import WordTokenizer
from gpt_nb.training import TrainConfig, train

CONFIG = TrainConfig(steps=6, batch_size=8, log_every=1, eval_every=3, eval_tokens=1000,
                     warmup=2, device="cpu", precision="float32")
SHAPES = {"qwen3": dict(n_kv_head=4), "gpt2": dict(tie_embeddings=True)}


@pytest.fixture(scope="module")
def tokens():
    texts = list(Tales().texts(200))
    return tokenize(texts, WordTokenizer.train(texts, vocab_size=2**13), progress=False)


def make(tokens, arch="qwen3"):
    torch.manual_seed(0)
    shape = GPTConfig(arch, tokens.vocab_size, 96, 2, 4, 32, **SHAPES[arch])
    return GPT(shape)


def losses(history): return [row["loss"] for row in history[1:]]


def three_ways(sizes):
    "Sums over the ranks, by hand twice and by torch."
    found = []
    for size in sizes:
        x = torch.randn(size, generator=torch.Generator().manual_seed(dist.get_rank()))
        whole = x.clone()
        dist.all_reduce(whole)
        found.append((x, all_reduce_by_hand(x), ring_all_reduce(x), whole))
    return found


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_sums_by_hand_are_those_of_torch(world):
    ranks = launch(world, three_ways, [(1,), (3,), (7, 5), (64, 3)])
    for same in zip(*ranks):
        want = sum(x for x, *_ in same)
        for x, *sums in same:
            for total in sums: torch.testing.assert_close(total, want)


@pytest.fixture(scope="module", params=["muon", "adamw"])
def alone(request, tokens):
    "An optimizer, and what one process does with it."
    config = replace(CONFIG, optimizer=request.param)
    return config, {arch: train(make(tokens, arch), tokens, config, show=False) for arch in SHAPES}


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "tp"])
@pytest.mark.parametrize("arch", SHAPES)
def test_many_processes_train_the_model_of_one(tokens, alone, kind, world, arch):
    config, one = alone
    ranks = train_on(world, kind, make(tokens, arch), tokens, config)
    assert [r.rank for r in ranks] == list(range(world))
    for report in ranks:
        assert losses(report.history) == pytest.approx(losses(one[arch].history), abs=2e-5)
        assert report.history[-1]["tokens"] == one[arch].history[-1]["tokens"]
        found, want = report.history[-1]["val_loss"], one[arch].val_loss
        assert found == pytest.approx(want, abs=2e-5) and found < report.history[0]["val_loss"]
