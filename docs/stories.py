"The page in which a GPT is trained: its stories, with the best that anybody can do on them."
import base64
from pathlib import Path

import numpy as np

from gpt_nb.evaluation import floor
from gpt_nb.ngram import NGram
from gpt_nb.page import world_data, write_compact
from gpt_nb.tales import Tales

END = 0   # the token that begins and ends each story


def as_text(ids: np.ndarray) -> str:
    "One byte a token, as base64."
    return base64.b64encode(ids.astype(np.uint8).tobytes()).decode()


def as_ids(text: str) -> np.ndarray:
    "The way back."
    return np.frombuffer(base64.b64decode(text), np.uint8)


def training_data(lang: str, n: int = 6000, n_val: int = 100) -> dict:
    "Stories of level 1 to learn from and others to be measured on; what counting reaches there."
    world = Tales(lang, 1)
    words = ["<|end|>", *world.vocabulary()]
    number = {word: i for i, word in enumerate(words)}

    def told(seeds: range) -> np.ndarray:
        ids = [END]
        for seed in seeds: ids += [*(number[word] for word in world.sample(seed).words), END]
        return np.array(ids)

    train, val = told(range(n)), told(range(n, n + n_val))
    counted = NGram(2).fit(train, len(words), END).log_probs(val)[1:]   # the first is always END
    return dict(lang=lang, words=words, floor=floor(world, val, END), bigram=-counted.mean(),
                world=world_data(lang), train=as_text(train), val=as_text(val))


def write_stories(folder: Path, **how: int) -> None:
    "training-en.json and training-zh.json, which gpt_nb/web/training.js opens."
    for lang in ("en", "zh"):
        write_compact(folder / f"training-{lang}.json", training_data(lang, **how))
