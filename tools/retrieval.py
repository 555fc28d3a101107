"""Measure the searches of chapter 16b on shelves of up to 10,000 stories, with three seeds of what
is trained: `python tools/retrieval.py` writes nbs/results/retrieval.json. What stands there is
kept; take the file away to measure anew."""
import random
import time
from functools import lru_cache
from itertools import product

import torch
from results import SEEDS, so_far, write

from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.model import GPT
from gpt_nb.retrieval import (TextEncoder, FusedShelf, Shelf, VectorShelf, asked, perfect, recall,
                              terms, train_encoder)
from gpt_nb.tales import Story, Tales, unit

SHELF, QUESTIONS, PAIRS, STEPS = 10_000, 200, 6_000, 600
SIZES = dict(en=(10, 100, 1_000, 10_000), zh=(10, 100, 1_000))   # of shelves, by language
TEST, CHOICE, LEARN = 5_000_000, 6_000_000, 100_000_000   # seeds of stories


def told(story: Story, lang: str) -> str:
    "Its text in a language."
    return story.text if story.lang == lang else story.translation


def one_question(story: Story, lang: str, other: bool) -> str:
    "One of the questions about it, the same whenever it is asked for."
    return random.Random(story.text).choice(asked(story, lang, other))


def pair_of(story: Story, draw: random.Random) -> tuple[str, str]:
    "A question and a text, each in a language drawn by chance, half of the questions reworded."
    langs = draw.choice(("en", "zh")), draw.choice(("en", "zh"))
    return one_question(story, langs[0], draw.random() < 0.5), told(story, langs[1])


def ways_to_cut() -> dict[str, dict]:
    "How a text may be cut into terms, by language."
    import bm25s

    def default(stopwords):
        how = dict(stopwords=stopwords, return_ids=False, show_progress=False)
        return lambda text: bm25s.tokenize([text], **how)[0]

    def of_world(text): return [word for word in unit("zh").findall(text) if word.isalnum()]
    def single(text): return [term for term in terms(text) if len(term) == 1]
    def pairs(text): return [term for term in terms(text) if len(term) == 2]
    every = {"default of bm25s": default("english"), "without stop words": default(None)}
    chinese = {"characters": single, "pairs": pairs, "both": terms, "words of the world": of_world}
    return dict(en=every | {"ours": terms}, zh=every | chinese)


def size_of(shelf: Shelf) -> float:   # MB
    "What the index takes, without the texts."
    if isinstance(shelf, VectorShelf): return shelf.index.nbytes / 1e6
    return sum(shelf.index.scores[key].nbytes for key in ("data", "indices", "indptr")) / 1e6


def measured(shelf: Shelf, pairs: list[tuple[str, int]]) -> dict:
    "Recall at 1, 5 and 20, and the milliseconds of a search."
    start = time.process_time()
    found = recall(shelf, pairs)
    return dict(recall=list(found.values()),
                ms=1000 * (time.process_time() - start) / len(pairs))


def first_part(shelf: VectorShelf, n: int) -> VectorShelf:
    "The shelf of the first n texts, without computing their vectors again."
    part = object.__new__(VectorShelf)
    part.texts, part.sources, part.encoder = shelf.texts[:n], shelf.sources[:n], shelf.encoder
    part.index = shelf.index[:n]
    return part


@lru_cache(None)
def words_of(lang: str, n: int) -> Shelf:
    "The first n stories, to be found by words."
    return Shelf([told(story, lang) for story in stories_on_shelf()[:n]])


@lru_cache(1)
def stories_on_shelf() -> list[Story]:
    "All that are searched."
    return [Tales().sample(seed) for seed in range(TEST, TEST + SHELF)]


def about(n: int) -> range:
    "The stories of a shelf that questions are about."
    return range(0, n, max(1, n // QUESTIONS))


def measure_words() -> dict:
    "The best possible search, BM25 by each way to cut, and ours by the size of the shelf."
    stories, result = stories_on_shelf(), dict(best={}, cuts={}, sizes={})
    for n in SIZES["en"]:
        result["best"][str(n)] = [perfect(stories[:n], about(n), k) for k in (1, 5, 20)]
    for lang in ("en", "zh"):
        pairs = [(one_question(stories[i], lang, False), i) for i in about(SHELF)]
        for name, cut in ways_to_cut()[lang].items():
            start = time.process_time()
            shelf = Shelf([told(story, lang) for story in stories], cut)
            result["cuts"][f"{lang} {name}"] = dict(
                seconds=time.process_time() - start, **measured(shelf, pairs),
                megabytes=size_of(shelf))
            print(lang, name, result["cuts"][f"{lang} {name}"], flush=True)
        for n, ((asked_in, other), _) in product(SIZES[lang], all_pairs(10).items()):
            key = f"{asked_in}{' other' if other else ''} {lang} {n}"
            shelf = words_of(lang, n)
            found = measured(shelf, all_pairs(n)[asked_in, other])
            result["sizes"][key] = found | dict(megabytes=size_of(shelf))
    return result


def measure_k1() -> dict:
    "Recall by k1, with stories and questions that are used for nothing else: here k1 is chosen."
    stories, result = [Tales().sample(seed) for seed in range(CHOICE, CHOICE + SHELF)], {}
    for lang in ("en", "zh"):
        pairs = [(one_question(stories[i], lang, False), i) for i in range(0, SHELF, 5)]
        for k1 in (0.1, 0.25, 0.5, 1.0, 1.5, 5.0):
            shelf = Shelf([told(story, lang) for story in stories], k1=k1)
            result[f"{lang} {k1}"] = measured(shelf, pairs)
            print(lang, k1, result[f"{lang} {k1}"], flush=True)
    return result


class Remembering:
    "An encoder that computes the vectors of all queries at once, and keeps what the body says."
    states = {}   # text -> means of its hidden states: the same for every seed

    def __init__(self, encoder: TextEncoder, queries: list[str]):
        self.encoder = encoder
        self.known = dict(zip(queries, encoder.query_side(self.read(queries))))

    def read(self, texts: list[str]) -> torch.Tensor:
        "The means of hidden states, each text read once."
        new = [text for text in dict.fromkeys(texts) if text not in self.states]
        if new: self.states.update(zip(new, self.encoder.states(new)))
        return torch.stack([self.states[text] for text in texts])

    def texts(self, texts: list[str]) -> torch.Tensor:
        return self.encoder.text_side(self.read(texts))

    def queries(self, some: list[str]) -> torch.Tensor:
        return torch.stack([self.known[query] for query in some])


def all_pairs(n: int) -> dict[tuple, list]:
    "Questions in both languages, in the words of the text and in others."
    stories = stories_on_shelf()
    return {(lang, other): [(one_question(stories[i], lang, other), i) for i in about(n)]
            for lang in ("en", "zh") for other in (False, True)}


@torch.no_grad()
def search_all(encoder: TextEncoder) -> dict:
    "Recall by vectors and fused with words, for every pair of languages, wording and size."
    queries = [query for n in SIZES["en"] for pairs in all_pairs(n).values() for query, _ in pairs]
    quick, result = Remembering(encoder, list(dict.fromkeys(queries))), {}
    for lang, sizes in SIZES.items():
        texts = [told(story, lang) for story in stories_on_shelf()[:sizes[-1]]]
        whole = VectorShelf(texts, quick)
        for n in sizes:
            vectors = first_part(whole, n)
            kinds = {"vectors": vectors, "both": FusedShelf([words_of(lang, n), vectors])}
            for kind, ((asked_in, other), pairs) in product(kinds, all_pairs(n).items()):
                key = f"{kind} {asked_in}{' other' if other else ''} {lang} {n}"
                result[key] = measured(kinds[kind], pairs)
                if kind == "vectors": result[key]["megabytes"] = size_of(vectors)
            print(lang, n, {key: found["recall"][0] for key, found in result.items()
                            if key.endswith(f"{lang} {n}")}, flush=True)
    return result


def main() -> None:
    torch.set_num_threads(1)
    result = so_far("retrieval")
    if "words" not in result:
        result["words"] = measure_words()
        write("retrieval", result)
    if "k1" not in result:
        result["k1"] = measure_k1()
        write("retrieval", result)
    body = GPT.from_pretrained("tales-short", dtype=torch.float32)
    tok = load_tokenizer("tales-short")
    learned = [Tales().sample(seed) for seed in range(LEARN, LEARN + PAIRS)]
    result.setdefault("trained", {})
    for seed in SEEDS:
        if str(seed) in result["trained"]: continue
        draw, start = random.Random(seed), time.process_time()
        torch.manual_seed(seed)
        encoder = TextEncoder(body, tok, [pair_of(story, draw) for story in learned])
        read = time.process_time() - start
        losses = train_encoder(encoder, steps=STEPS, seed=seed)
        spent = time.process_time() - start
        print(f"seed {seed}: {spent:.0f} s, loss {losses[-1]:.2f}", flush=True)
        result["trained"][str(seed)] = dict(recall=search_all(encoder), loss=losses[::50],
                                            read=read, seconds=spent)
        write("retrieval", result)


if __name__ == "__main__": main()
