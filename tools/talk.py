"""The long measurements of chapter 17b: what is forgotten when the context is full, what half an
answer does, and what to search for. `python tools/talk.py` writes nbs/results/talk.json and goes on
where it was stopped."""
import json
import random
import sys
from collections import Counter
from functools import lru_cache
from itertools import product
from pathlib import Path

import torch

import gpt_nb.talk
from gpt_nb.chat import (REFUSAL, answerable, apply_chat_template, judge, leaning, with_clause)
from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.model import GPT
from gpt_nb.retrieval import Shelf
from gpt_nb.sampling import generate
from gpt_nb.tales import Tales
from gpt_nb.talk import Chat, Exchange, fit, leans, look_up, texts_for

OUT = Path(__file__).parent.parent / "nbs" / "results" / "talk.json"
TEST = 5_000_000     # seeds of stories that no model here has read
SEEDS, TALKS, TURNS, ROOM = (0, 1, 2), 60, 6, 110
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
    "The newest that fits; what is oldest goes first: the system message, then exchanges."
    ids = prompt(messages)
    while len(ids) > room:
        messages = messages[1 if messages[0]["role"] == "system" else 2:]
        ids = prompt(messages)
    return ids


def keep_system(messages: list[dict], room: int) -> list[int]:
    "The system message and the newest exchanges that fit."
    ids = prompt(messages)
    while len(ids) > room:
        messages = [messages[0], *messages[3:]]
        ids = prompt(messages)
    return ids


POLICIES = {"all of it": whole, "last tokens": last_tokens, "oldest messages go": last_messages,
            "the system message stays": keep_system}


def when_full(lang: str, seed: int) -> list[dict]:
    "Talks of six questions, and of each question how it was answered, by policy."
    told, rows = stories(lang, seed, TALKS), []
    asked = [questions_about(story, TURNS, seed) for story in told]
    for name, policy in POLICIES.items():
        talks = [[says("system", story.text)] for story in told]
        for n in range(TURNS):
            for talk, turns in zip(talks, asked): talk.append(says("user", turns[n].text))
            said = answers([policy(talk, ROOM) for talk in talks])
            for talk, turns in zip(talks, asked): talk.append(says("assistant", turns[n].answer))
            counts = worth(said, [turns[n] for turns in asked])
            rows.append(dict(lang=lang, seed=seed, policy=name, turn=n + 1, **counts))
    return rows


def half_answers(lang: str, seed: int) -> list[dict]:
    "An answer that was stopped, then a question: what is kept of the first, and what it does."
    tok, told, rows = house()[1], stories(lang, seed, TALKS), []
    for kind in ("leans on it", "stands for itself"):
        pairs = [(story, two_questions(story, kind, seed)) for story in told]
        pairs = [(story, turns) for story, turns in pairs if turns]
        for name in ("not stopped", "the half stays", "question and half go"):
            talks = [interrupted(name, story, turns, tok) for story, turns in pairs]
            said = answers([prompt(talk) for talk in talks])
            rows.append(dict(lang=lang, seed=seed, second=kind, kept=name,
                             **worth(said, [turns[1] for _, turns in pairs])))
    return rows


def worth(said: list[str], turns: list) -> dict[str, int]:
    "How many answers are right, wrong, refusals."
    counts = Counter(judge(answer, turn) for answer, turn in zip(said, turns))
    return {name: counts[name] for name in ("right", "wrong", "refused")}


def two_questions(story, kind: str, seed: int) -> list | None:
    "Two questions with an answer, the second of this kind; None where none was found."
    for i in range(20):
        rng = random.Random(f"{story.text} {seed} {i}")
        first = answerable(story, rng)
        second = leaning(story, first, rng) if kind == "leans on it" else answerable(story, rng)
        if second and second.fact and second.text != first.text: return [first, second]
    return None


def interrupted(name: str, story, turns: list, tok) -> list[dict]:
    "A talk whose first answer was stopped in its middle."
    ids = tok.encode(turns[0].answer)
    half = tok.decode(ids[:max(1, len(ids) // 2)]).rstrip("\ufffd")
    said = turns[0].answer if name == "not stopped" else half
    first = [says("user", turns[0].text), says("assistant", said)]
    if name == "question and half go": first = []
    return [says("system", story.text), *first, says("user", turns[1].text)]


def searches(lang: str, seed: int) -> list[dict]:
    "How often the right story is found first, and among three, by what is searched for."
    shelved = stories(lang, seed, SHELF)
    shelf, rows = Shelf([story.text for story in shelved]), []
    for name, search in WAYS.items():
        rng, found = random.Random(seed), {}
        for _ in range(TALKS // 2):
            asked, before = [], Exchange("")
            for place in rng.sample(range(SHELF), 3):
                for n, turn in enumerate(chain(shelved[place], rng)):
                    text = turn.text
                    kind = "names its story" if n == 0 else "leans"
                    asked.append(text)
                    best = search(asked, before, shelf)
                    found.setdefault(kind, []).append([place in best[:k] for k in (1, 3)])
                    about = before.about if leans(text, before.about, shelf) else text
                    before = Exchange(text, about=about, place=best[0] if best else -1)
        for kind, hits in found.items():
            first, three = (sum(column) for column in zip(*hits))
            rows.append(dict(lang=lang, seed=seed, way=name, question=kind, n=len(hits),
                             first=first, three=three))
    return rows


def chain(story, rng: random.Random, n: int = 5) -> list:
    "A question that names its story, and some that lean on the one before."
    while True:
        turns = [answerable(story, rng)]
        for _ in range(10 * n):
            turn = leaning(story, turns[-1], rng)
            if turn and turn.fact: turns.append(turn)
            if len(turns) < n: continue
            return [turns[0]._replace(text=with_clause(story, turns[0].text)), *turns[1:]]


def newest(asked: list[str], before: Exchange, shelf: Shelf) -> list[int]:
    return [i for i, _ in shelf.search(asked[-1], 3)]


def last_three(asked: list[str], before: Exchange, shelf: Shelf) -> list[int]:
    return [i for i, _ in shelf.search("\n".join(asked[-3:]), 3)]


def all_asked(asked: list[str], before: Exchange, shelf: Shelf) -> list[int]:
    return [i for i, _ in shelf.search("\n".join(asked), 3)]


def as_built(asked: list[str], before: Exchange, shelf: Shelf) -> list[int]:
    return look_up(asked[-1], before, shelf)


WAYS = {"the newest": newest, "the last three": last_three, "all": all_asked,
        "the newest, with what it leans on": as_built}


def found_texts(lang: str, seed: int) -> list[dict]:
    "Talks over a shelf: answers from the text that is found, from up to three, from the right one."
    shelved, rows = stories(lang, seed, SHELF), []
    shelf = Shelf([story.text for story in shelved])
    for name, (tries, hears) in TEXTS.items():
        gpt_nb.talk.first_heard = hears
        rng, said = random.Random(seed), {"names its story": ([], []), "leans": ([], [])}
        chats = [Chat(*house(), shelf, tokens=30) for _ in range(TALKS // 2)]
        for _ in range(3):     # stories, one after the other
            places = rng.sample(range(SHELF), len(chats))
            if tries == 0:
                for chat, place in zip(chats, places): chat.shelf = Shelf([shelved[place].text])
            for n, turns in enumerate(zip(*(chain(shelved[i], rng, 3) for i in places))):
                answered = ask_all(chats, [turn.text for turn in turns], max(1, tries))
                kind = said["leans" if n else "names its story"]
                kind[0].extend(answered)
                kind[1].extend(turns)
        rows += [dict(lang=lang, seed=seed, texts=name, question=kind, **worth(*said[kind]))
                 for kind in said]
    return rows


def ask_all(chats: list[Chat], questions: list[str], tries: int) -> list[str]:
    "What `Chat.say` does, of many talks side by side; at most so many texts are read."
    tok, room = house()[1], house()[0].config.context - 30
    news = [Exchange(question) for question in questions]
    texts = [texts_for(chat, new)[:tries] for chat, new in zip(chats, news)]
    for chat, new in zip(chats, news): new.forgotten = gpt_nb.talk.first_heard(chat, new)
    for n in range(tries):
        left = [i for i in range(len(chats)) if n < len(texts[i])
                and (n == 0 or news[i].answer in REFUSAL.values())]
        for i in left: news[i].place, news[i].text, _ = texts[i][n]
        for i in left: news[i].answer = ""
        rows = [fit(tok, [*chats[i].exchanges, news[i]], room) for i in left]
        for i, answer in zip(left, answers(rows)): news[i].answer = answer
    for chat, new, held in zip(chats, news, texts):
        if new.answer in REFUSAL.values(): new.place, new.text, _ = held[0]
        if new.answer: chat.exchanges.append(new)
    return [new.answer for new in news]


FIRST_HEARD = gpt_nb.talk.first_heard


def all_heard(chat: Chat, new: Exchange) -> int: return 0


TEXTS = {"the right one": (0, FIRST_HEARD), "the first found": (1, FIRST_HEARD),
         "up to three": (3, FIRST_HEARD), "up to three, all talk read": (3, all_heard)}
PARTS = dict(full=when_full, halves=half_answers, searches=searches, found=found_texts)


def main(names: list[str]) -> None:
    "Measure what is not in the file yet."
    known = json.loads(OUT.read_text("utf-8")) if OUT.is_file() else {}
    for seed, name, lang in product(SEEDS, names or PARTS, ("en", "zh")):
        rows = known.setdefault(name, [])
        if any((row["lang"], row["seed"]) == (lang, seed) for row in rows): continue
        rows += PARTS[name](lang, seed)
        part = OUT.with_suffix(".part")
        part.write_text(json.dumps(known, ensure_ascii=False, indent=0) + "\n", "utf-8")
        part.replace(OUT)
        print(name, lang, seed, flush=True)


if __name__ == "__main__": main(sys.argv[1:])
