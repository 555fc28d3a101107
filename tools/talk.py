"""The long measurements of chapter 17b: what is forgotten when the context is full, what half an
answer does, and what to search for. `python tools/talk.py` writes nbs/results/talk.json and goes on
where it was stopped."""
import json
import random
import sys
from collections import Counter
from functools import lru_cache
from pathlib import Path

import torch

from gpt_nb.chat import answerable, apply_chat_template, judge, leaning, with_clause
from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.model import GPT
from gpt_nb.retrieval import Shelf
from gpt_nb.sampling import generate
from gpt_nb.tales import Tales
from gpt_nb.talk import leans, look_up

OUT = Path(__file__).parent.parent / "nbs" / "results" / "talk.json"
TEST = 5_000_000     # seeds of stories that no model here has read
SEEDS, TALKS, TURNS, ROOM = (0, 1, 2), 100, 12, 160
SHELF = 2000


@lru_cache(1)
def house() -> tuple:
    "The model that answers, and its tokenizer."
    return GPT.from_pretrained("tales-chat", dtype=torch.float32), load_tokenizer("tales-chat")


def says(role: str, content: str) -> dict: return dict(role=role, content=content)


def stories(lang: str, seed: int, n: int) -> list:
    "Stories of this seed."
    return [Tales(lang).sample(TEST + 10_000 * seed + i) for i in range(n)]


def questions_about(story, n: int, seed: int) -> list:
    "So many questions that a story answers; some lean on the one before."
    rng = random.Random(f"{story.text} {seed}")
    turns = [answerable(story, rng)]
    while len(turns) < n:
        turn = leaning(story, turns[-1], rng)
        turns.append(turn if turn and turn.fact else answerable(story, rng))
    return turns


def answers(rows: list[list[int]], most: int = 30) -> list[str]:
    "What the model says after each of these rows."
    model, tok = house()
    end = tok.special_tokens["<|im_end|>"]
    said = []
    for i in range(0, len(rows), 50):
        part = rows[i:i + 50]
        full = generate(model, part, most, temperature=0, stop=end)
        said += [tok.decode(b[len(a):]).removesuffix("<|im_end|>") for a, b in zip(part, full)]
    return said


def prompt(messages: list[dict]) -> list[int]:
    "A talk up to where the answer begins."
    return apply_chat_template(house()[1], messages, add_generation_prompt=True)


def whole(messages: list[dict], room: int) -> list[int]:
    "All of it, however long."
    return prompt(messages)


def last_tokens(messages: list[dict], room: int) -> list[int]:
    "The last tokens, wherever that cuts."
    return prompt(messages)[-room:]


def last_messages(messages: list[dict], room: int) -> list[int]:
    "The newest messages that fit; what is oldest goes first, also the system message."
    while len(ids := prompt(messages)) > room: messages = messages[1:]
    return ids


def keep_system(messages: list[dict], room: int) -> list[int]:
    "The system message and the newest exchanges that fit."
    while len(ids := prompt(messages)) > room: messages = [messages[0], *messages[3:]]
    return ids


POLICIES = {"all of it": whole, "last tokens": last_tokens, "oldest messages go": last_messages,
            "the system message stays": keep_system}


def when_full(lang: str, seed: int) -> list[dict]:
    "Talks of twelve questions, and of each question how it was answered, by policy."
    told, rows = stories(lang, seed, TALKS), []
    asked = [questions_about(story, TURNS, seed) for story in told]
    for name, policy in POLICIES.items():
        talks = [[says("system", story.text)] for story in told]
        for n in range(TURNS):
            for talk, turns in zip(talks, asked): talk.append(says("user", turns[n].text))
            said = answers([policy(talk, ROOM) for talk in talks])
            for talk, answer in zip(talks, said): talk.append(says("assistant", answer))
            worth = Counter(judge(answer, turns[n]) for answer, turns in zip(said, asked))
            rows.append(dict(lang=lang, seed=seed, policy=name, turn=n + 1, **worth))
    return rows


def half_answers(lang: str, seed: int) -> list[dict]:
    "An answer that was stopped, then a question: what is kept of the first, and what it does."
    tok, told, rows = house()[1], stories(lang, seed, TALKS), []
    pairs = [(story, turns) for story in told
             if (turns := leaning_pair(story, seed)) is not None]
    for name in ("whole", "half kept", "question and half dropped", "half without the question"):
        talks = [interrupted(name, story, turns, tok) for story, turns in pairs]
        said = answers([prompt(talk) for talk in talks])
        worth = Counter(judge(answer, turns[1]) for answer, (_, turns) in zip(said, pairs))
        rows.append(dict(lang=lang, seed=seed, kept=name, **worth))
    return rows


def leaning_pair(story, seed: int) -> list | None:
    "A question and one that leans on it, both with an answer."
    for i in range(20):
        rng = random.Random(f"{story.text} {seed} {i}")
        first = answerable(story, rng)
        second = leaning(story, first, rng)
        if second and second.fact: return [first, second]
    return None


def interrupted(name: str, story, turns: list, tok) -> list[dict]:
    "A talk whose first answer was stopped in its middle."
    ids = tok.encode(turns[0].answer)
    half = tok.decode(ids[:max(1, len(ids) // 2)]).rstrip("\ufffd")
    first = [says("user", turns[0].text), says("assistant", half)]
    if name == "whole": first[1] = says("assistant", turns[0].answer)
    if name == "question and half dropped": first = []
    return [says("system", story.text), *first, says("user", turns[1].text)]


def searches(lang: str, seed: int) -> list[dict]:
    "How often the right story is found first, and among three, by what is searched for."
    shelved = stories(lang, seed, SHELF)
    shelf, rows = Shelf([story.text for story in shelved]), []
    for name, search in WAYS.items():
        rng, found = random.Random(seed), {}
        for _ in range(TALKS // 2):
            asked, about = [], ""
            for place in rng.sample(range(SHELF), 3):
                for n, text in enumerate(chain(shelved[place], rng)):
                    kind = "names its story" if n == 0 else "leans"
                    best = search([*asked, text], about, shelf)
                    found.setdefault(kind, []).append([place in best[:k] for k in (1, 3)])
                    if not leans(text, about, shelf): about = text
                    asked.append(text)
        for kind, hits in found.items():
            first, three = (sum(column) for column in zip(*hits))
            rows.append(dict(lang=lang, seed=seed, way=name, question=kind, n=len(hits),
                             first=first, three=three))
    return rows


def chain(story, rng: random.Random, n: int = 5) -> list[str]:
    "A question that names its story, and some that lean on the one before."
    while True:
        turns = [answerable(story, rng)]
        for _ in range(10 * n):
            turn = leaning(story, turns[-1], rng)
            if turn and turn.fact: turns.append(turn)
            if len(turns) == n: return [with_clause(story, turns[0].text), *(t.text for t in turns[1:])]


def newest(asked: list[str], about: str, shelf: Shelf) -> list[int]:
    return [i for i, _ in shelf.search(asked[-1], 3)]


def last_three(asked: list[str], about: str, shelf: Shelf) -> list[int]:
    return [i for i, _ in shelf.search("\n".join(asked[-3:]), 3)]


def all_asked(asked: list[str], about: str, shelf: Shelf) -> list[int]:
    return [i for i, _ in shelf.search("\n".join(asked), 3)]


def as_built(asked: list[str], about: str, shelf: Shelf) -> list[int]:
    return look_up(asked[-1], about, shelf)


WAYS = {"the newest": newest, "the last three": last_three, "all": all_asked,
        "the newest, with what it leans on": as_built}


PARTS = dict(full=when_full, halves=half_answers, searches=searches)


def main(names: list[str]) -> None:
    "Measure what is not in the file yet."
    known = json.loads(OUT.read_text("utf-8")) if OUT.is_file() else {}
    for name in names or PARTS:
        for seed in SEEDS:
            for lang in ("en", "zh"):
                rows = known.setdefault(name, [])
                if any((row["lang"], row["seed"]) == (lang, seed) for row in rows): continue
                rows += PARTS[name](lang, seed)
                part = OUT.with_suffix(".part")
                part.write_text(json.dumps(known, ensure_ascii=False, indent=0) + "\n", "utf-8")
                part.replace(OUT)
                print(name, lang, seed, flush=True)


if __name__ == "__main__": main(sys.argv[1:])
