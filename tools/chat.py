"""The measurements of chapter 17, and the house model that talks: `python tools/chat.py NAME ...`
(none named: all): chat, all-tokens, no-refusals.

Each teaches `tales-short` to answer about a text, from seeds 0, 1 and 2 (the last two, which are
broken on purpose, from seed 0), and writes what it says to questions about unseen stories to
nbs/results/chat.json. What stands there is kept; a training that was stopped goes on. Seed 0 of
`chat` becomes the house model `tales-chat`."""
import random
import shutil
import time
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from models import CARD, ROOT, choose, store
from results import so_far, write

from gpt_nb.chat import (MARKS, SAID, UNSEEN, Turn, answerable, as_messages, ask, chat_rows,
                         clause, dialogue, facts_in, for_chat, judge, near_miss, new_turn, outside,
                         replies, retold, talk, told, with_clause)
from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.finetuning import Examples, Row, pad_of
from gpt_nb.model import GPT
from gpt_nb.retrieval import Shelf
from gpt_nb.tales import STOP, Story, Tales, called
from gpt_nb.tokenizer import Tokenizer
from gpt_nb.training import Run, TrainConfig, check_new, train

LANGS = ("en", "zh")
TEST, LEARN = 3_000_000, 5_000_000   # seeds of stories, the first of many
STAGES = [   # what is read, and how: one skill after the other, then all together
    (dict(again=1_600, easy=10_800), dict(batch_size=8, decay=0.3, final_lr=0.5)),
    (dict(who=6_400), dict(batch_size=16, decay=0.3)),
    (dict(who=2_400, came=2_400, meant=9_600, quiz=2_400), dict(batch_size=16, decay=0.3)),
    (dict(again=800, mixed=60_000, who=4_000, came=4_000, meant=9_000, quiz=3_000),
     dict(batch_size=16, final_lr=0.3)),
    (dict(mixed=40_000), dict(batch_size=16, lr=0.003, muon_lr=0.006, decay=0.8))]
TALKS, ASKED, ON_SHELF, TRIED = 250, 200, 5_000, 5   # to test, a language
WIDTHS = (160, 224, 288, 448)   # the last is the context
RATES = dict(optimizer="muon", lr=0.01, muon_lr=0.02, precision="bfloat16", compile=True,
             eval_every=500, log_every=50)
HOW = {"chat": (0, 1, 2), "all-tokens": (0,), "no-refusals": (0,)}   # and from which seeds
VERDICTS = ("right", "wrong", "refused")


# ---- what is read in training
def talks_of(kind: str, first: int, n: int) -> list[list[dict]]:
    "Talks about n stories, every other one Chinese."
    worlds = [Tales(lang) for lang in LANGS]
    return [KINDS[kind](worlds[i % 2], first + i) for i in range(n)]


def easy(world: Tales, seed: int) -> list[dict]:
    "A talk in which all can be answered."
    return dialogue(world, seed, refuse=False)


def who(world: Tales, seed: int) -> list[dict]:
    "A drill: who each of the two people is."
    story, rng = world.sample(seed), random.Random(seed)
    people = [called(story, "name", i) for i in (0, 1)]
    rng.shuffle(people)
    return as_messages(story.text, [ask(story, "role", name, rng) for name in people])


def came(world: Tales, seed: int) -> list[dict]:
    "A drill: who smiled, and whether the dream came true."
    story, rng = world.sample(seed), random.Random(seed)
    dreamer = called(story, "name", story.scene.wish[0])
    turns = [ask(story, "true", dreamer, rng), ask(story, "smile", "", rng)]
    rng.shuffle(turns)
    return as_messages(story.text, turns)


def meant(world: Tales, seed: int) -> list[dict]:
    "A drill: easy questions, half of them about the story of others."
    story, rng, turns = world.sample(seed), random.Random(seed), []
    for _ in range(3):
        other = near_miss(story, rng) if rng.random() < 0.5 else None
        about = other or story
        kind = rng.choice(("smile", "owner", "friend", "home", "trait"))
        name = next(name for of, name in facts_in(about) if of == kind)
        turn = ask(about, kind, name, rng)
        turn = turn._replace(text=with_clause(about, turn.text))
        turns.append(turn._replace(fact=None, missing="others") if other else turn)
    return as_messages(story.text, turns)


QUIZ = dict(en="Ask me something about the story.", zh="就这个故事问我一个问题。")


def quiz(world: Tales, seed: int) -> list[dict]:
    "A drill: the assistant asks, and so learns to say whose story it is."
    story = world.sample(seed)
    asked = with_clause(story, answerable(story, random.Random(seed)).text)
    said = zip(("system", "user", "assistant"), (story.text, QUIZ[world.lang], asked))
    return [dict(role=role, content=text) for role, text in said]


KINDS = dict(again=retold, easy=easy, who=who, came=came, meant=meant, quiz=quiz, mixed=dialogue)


# ---- learning
def quick_rows(tok: Tokenizer, talks: list[list[dict]]) -> list[Row]:
    "What `chat_rows` makes of talks in our own template, some five times as fast."
    start, end = (tok.special_tokens[name] for name in MARKS)
    line, rows = tok.encode("\n"), []
    for messages in talks:
        ids, learned = [], []
        for message in messages:
            head = [start, *tok.encode(message["role"] + "\n")]
            said = [*tok.encode(message["content"]), end]
            own = message["role"] == "assistant"
            ids += head + said + line
            learned += [False] * len(head) + [own] * len(said) + [False] * len(line)
        targets = [i if asked else -100 for i, asked in zip(ids, learned)]
        rows.append((ids[:-len(line) - 1], targets[1:-len(line)]))
    return rows


def widened(row: Row, pad: int) -> Row:
    "A row with padding up to one of a few widths: each is compiled once."
    x, y = row
    more = next(width for width in WIDTHS if width >= len(x)) - len(x)
    return x + [pad] * more, y + [-100] * more


def body() -> tuple[GPT, Tokenizer]:
    "`tales-short` with the marks of messages, and room for talks."
    model = GPT.from_pretrained("tales-short", dtype=torch.float32)
    model, tok = for_chat(model, load_tokenizer("tales-short"))
    model.config = model.model.config = replace(model.config, context=WIDTHS[-1])
    return model, tok


def fit(model: GPT, tok: Tokenizer, talks: list, how: str, out: Path, **settings) -> Run:
    "Read each talk once, or go on where it was stopped."
    rows, pad = quick_rows(tok, talks), pad_of(tok)
    assert rows[:9] == chat_rows(tok, talks[:9])
    if how == "all-tokens": rows = [(x, x[1:] + y[-1:]) for x, y in rows]
    rows = [widened(row, pad) for row in rows]
    examples = Examples("chat", rows, [], (), pad, tok.end_id, tok.vocab_size)
    config = TrainConfig(**RATES | settings | dict(steps=len(rows) // settings["batch_size"]))
    resume = (out / "state").is_dir()
    if not resume: check_new(out)
    return train(model, examples, config, tok, out, resume, options=dict(task="chat"))


def learn(how: str, seed: int) -> Run:
    "First talks in which all can be answered or said again, then drills, then all together."
    torch._dynamo.config.automatic_dynamic_shapes = False
    out = ROOT / "runs" / "chat" / f"{how}-{seed}"
    run = Run(*body(), None, [])
    for number, (talks, settings) in enumerate(STAGES):
        read = []
        for i, (kind, n) in enumerate(talks.items()):
            if how == "no-refusals" and kind in ("mixed", "meant"): kind = "easy"
            read += talks_of(kind, LEARN + 2_000_000 * number + 200_000 * i, n)
        run = fit(run.model, run.tok, read, how, out / str(number), seed=seed, **settings)
    return run


# ---- what is asked
@lru_cache(2)
def read_texts(lang: str) -> frozenset[str]:
    "All texts that were learned from."
    world, texts = Tales(lang), set()
    for number, (talks, _) in enumerate(STAGES):
        for i, n in enumerate(talks.values()):
            first = LEARN + 2_000_000 * number + 200_000 * i
            seeds = range(first + LANGS.index(lang), first + n, 2)
            texts |= {world.sample(seed).text for seed in seeds}
    return frozenset(texts)


def unseen_stories(lang: str, n: int, first: int = TEST) -> list[Story]:
    "Stories that were not learned from, no two of which fit the same clause."
    world, stories, seed = Tales(lang), {}, first
    while len(stories) < n:
        story, seed = world.sample(seed), seed + 1
        if story.text not in read_texts(lang): stories.setdefault(clause(story), story)
    return list(stories.values())


def talks_to_test(lang: str) -> list[tuple[list[dict], Turn]]:
    "Every question of unseen talks, behind the true answers before it."
    asked, world = [], Tales(lang)
    for seed in range(TEST, TEST + TALKS):
        text, turns = talk(world, seed)
        if text in read_texts(lang): continue
        for i, turn in enumerate(turns):
            asked.append((as_messages(text, turns[:i + 1])[:-1], turn))
    return asked


def alone(text: str, turn: Turn) -> tuple[list[dict], Turn]:
    "One question about a text."
    return as_messages(text, [turn])[:-1], turn


def held_out(lang: str, name: str) -> list[tuple[list[dict], Turn]]:
    "Questions in wordings, or of kinds, that were kept out of training."
    rng, asked = random.Random(0), []
    for story in unseen_stories(lang, ASKED):
        if name == "wording": turn = answerable(story, rng, held=True)
        else: turn = outside(story, rng, UNSEEN[name])
        asked.append(alone(story.text, turn))
    return asked


# ---- a shelf
@lru_cache(2)
def shelf_of(lang: str) -> tuple[list[Story], Shelf]:
    "Thousands of stories, and what finds them."
    stories = unseen_stories(lang, ON_SHELF)
    return stories, Shelf([story.text for story in stories])


@lru_cache(2)
def to_the_shelf(lang: str) -> list[Turn]:
    "Questions that name their story; about a third cannot be answered from it either."
    rng, turns = random.Random(1), []
    for story in shelf_of(lang)[0][:ASKED]:
        turn = new_turn(story, rng)
        while turn.missing == "others": turn = new_turn(story, rng)
        if not turn.text.startswith(clause(story)):
            turn = turn._replace(text=with_clause(story, turn.text))
        turns.append(turn)
    return turns


def found(lang: str) -> list[list[int]]:
    "For each of these questions the numbers of the best texts."
    shelf = shelf_of(lang)[1]
    return [[i for i, _ in shelf.search(turn.text, TRIED)] for turn in to_the_shelf(lang)]


def given(lang: str) -> dict[str, list[str]]:
    "The text that is read with each question: none, the right one, the best wrong one, the best."
    stories, shelf = shelf_of(lang)
    best, texts = found(lang), shelf.texts
    wrong = [next(k for k in some if k != i) for i, some in enumerate(best)]
    return dict(none=[""] * ASKED, right=texts[:ASKED], wrong=[texts[k] for k in wrong],
                found=[texts[some[0]] for some in best])


# ---- how it went
def counts(verdicts: list[str]) -> list[int]:
    "How many are right, wrong, refused."
    return [verdicts.count(name) for name in VERDICTS]


def by_group(turns: list[Turn], verdicts: list[str]) -> dict[str, list[int]]:
    "Of answerable and unanswerable questions."
    pairs = list(zip(turns, verdicts))
    return dict(answerable=counts([v for turn, v in pairs if turn.fact]),
                unanswerable=counts([v for turn, v in pairs if not turn.fact]))


def by_kind(turns: list[Turn], verdicts: list[str]) -> dict[str, dict[str, list[int]]]:
    "The same, by what is asked, and by why there is no answer."
    kinds = {"answerable": {}, "unanswerable": {}}
    for turn, verdict in zip(turns, verdicts):
        group = kinds["answerable" if turn.fact else "unanswerable"]
        group.setdefault(turn.kind if turn.fact else turn.missing, []).append(verdict)
    return {name: {kind: counts(said) for kind, said in sorted(group.items())}
            for name, group in kinds.items()}


def asked_of(run: Run, asked: list[tuple[list[dict], Turn]]) -> tuple[list[str], list[float]]:
    "What each answer is worth, and how sure the model was of it."
    said = replies(run.model, run.tok, [messages for messages, _ in asked])
    return [judge(a.text, turn) for a, (_, turn) in zip(said, asked)], [a.probability for a in said]


def tried(run: Run, lang: str) -> list[str]:
    "What comes of reading the second text where the first is refused, and so on."
    turns, texts = to_the_shelf(lang), shelf_of(lang)[1].texts
    verdicts, best = ["refused"] * ASKED, found(lang)
    for k in range(TRIED):
        rest = [i for i, verdict in enumerate(verdicts) if verdict == "refused"]
        now, _ = asked_of(run, [alone(texts[best[i][k]], turns[i]) for i in rest])
        for i, verdict in zip(rest, now): verdicts[i] = verdict
    return verdicts


def measure(run: Run, lang: str) -> dict:
    "All that is asked in one language."
    asked = talks_to_test(lang)
    turns = [turn for _, turn in asked]
    verdicts, sure = asked_of(run, asked)
    result = dict(talks=by_group(turns, verdicts), kinds=by_kind(turns, verdicts))
    result["sure"] = [[round(p, 4), v, int(turn.fact is not None)]
                      for p, v, turn in list(zip(sure, verdicts, turns))[:300]]
    result["held"] = {name: counts(asked_of(run, held_out(lang, name))[0])
                      for name in ("wording", *UNSEEN)}
    turns = to_the_shelf(lang)
    result["texts"] = {name: by_group(turns, asked_of(run, list(map(alone, texts, turns)))[0])
                       for name, texts in given(lang).items()}
    result["texts"]["tried"] = by_group(turns, tried(run, lang))
    return result


# ---- what takes no model
def usual_answers(lang: str) -> dict[str, tuple[str, str]]:
    "For each kind of question the most frequent answer to it in training."
    seen, world = {}, Tales(lang)
    for seed in range(LEARN, LEARN + 3_000):
        for turn in talk(world, seed)[1]:
            if turn.fact: seen.setdefault(turn.kind, Counter())[turn.fact] += 1
    return {kind: facts.most_common(1)[0][0] for kind, facts in seen.items()}


def nearest_sentence(text: str, question: str, lang: str) -> str:
    "The sentence that BM25 finds for a question; the empty text where nothing is in common."
    parts = [part.strip() + STOP[lang] for part in text.split(STOP[lang]) if part.strip()]
    best = Shelf(parts).search(question, 1) if parts else []
    return parts[best[0][0]] if best else ""


def holds(sentence: str, turn: Turn) -> str:
    "Its worth, in mild hands: right if the word that answers is in it."
    if not sentence: return "refused"
    return "right" if turn.fact and turn.fact[1] in sentence else "wrong"


def baselines(lang: str) -> dict:
    "What the usual answer and the nearest sentence are worth, and how good the search is."
    asked, usual = talks_to_test(lang), usual_answers(lang)
    turns, near, often = [turn for _, turn in asked], [], []
    for messages, turn in asked:
        fact = usual.get(turn.kind, next(iter(usual.values())))
        often.append(judge(told(turn._replace(fact=fact), SAID[fact[0]]), turn))
        text = messages[0]["content"] if messages[0]["role"] == "system" else ""
        near.append(holds(nearest_sentence(text, turn.text, lang), turn))
    hits = [some.index(i) if i in some else TRIED for i, some in enumerate(found(lang))]
    recall = {k: sum(hit < k for hit in hits) / len(hits) for k in (1, TRIED)}
    return {"usual answer": by_group(turns, often), "nearest sentence": by_group(turns, near),
            "recall": recall}


# ---- writing
def percent(some: list[int], name: str) -> str:
    "The share of one verdict."
    return f"{some[VERDICTS.index(name)] / sum(some):.1%}"


def put_into_the_house(run: Run, row: dict) -> None:
    "Store the model that talks, with its card."
    folder = ROOT / "gpt_nb" / "models" / "tales-chat"
    shutil.rmtree(folder, ignore_errors=True)
    model = store(run.model, run.tok, folder)
    for record in ("training.json", "log.jsonl"): shutil.copy(run.folder / record, folder)
    read = sum(sum(talks.values()) for talks, _ in STAGES)
    rows = {"begun as": "`tales-short`", "talks read": f"{read:,}",
            "seconds": f"{row['seconds']:,.0f}"}
    for lang in LANGS:
        talks, texts = row[lang]["talks"], row[lang]["texts"]
        rows[f"right of what can be answered, {lang}"] = percent(talks["answerable"], "right")
        rows[f"refused of what cannot, {lang}"] = percent(talks["unanswerable"], "refused")
        rows[f"right with a text found among {ON_SHELF:,}, {lang}"] = percent(
            texts["tried"]["answerable"], "right")
    table = "\n".join(f"| {k} | {v} |" for k, v in rows.items())
    card = CARD.format(name="tales-chat", params=model.n_params, rows=table,
                       data="talks about tales and tales-zh")
    card = card.replace("tools/models.py tales-chat", "tools/chat.py chat")
    (folder / "README.md").write_text(card, encoding="utf-8")


def main() -> None:
    "Measure what is not measured yet."
    content = so_far("chat") or dict(runs=[])
    names = choose(HOW, "training", __doc__)
    if "baselines" not in content:
        content["baselines"] = {lang: baselines(lang) for lang in LANGS}
        write("chat", content)
    for how, seed in [(how, seed) for how in names for seed in HOW[how]]:
        if any((row["how"], row["seed"]) == (how, seed) for row in content["runs"]): continue
        start = time.process_time()
        run = learn(how, seed)
        row = dict(how=how, seed=seed, seconds=round(time.process_time() - start))
        row |= {lang: measure(run, lang) for lang in LANGS}
        content["runs"].append(row)
        write("chat", content)
        print(how, seed, {lang: row[lang]["talks"] for lang in LANGS})
        if (how, seed) == ("chat", 0): put_into_the_house(run, row)


if __name__ == "__main__": main()
