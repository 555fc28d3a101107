"""The measurements of chapter 17, and the house model that talks: `python tools/chat.py NAME ...`
(none named: all): chat, all-tokens, no-refusals.

Each teaches a new body to answer about a text, from seeds 0, 1 and 2 (the last two, which are
broken on purpose, from seed 0), and writes what it says to questions about unseen stories to
nbs/results/chat.json. What stands there is kept; a training that was stopped goes on. Seed 0 of
`chat` becomes the house model `tales-chat`.

First it is taught to tell words apart, by drills with many answers a row: what only one answer in
twenty hangs on is not learned from talks. Under each word of a list it says whether the story has
it, under each word of a question whether all fits so far, and under each name of a story who that
is. Then talks follow."""
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from pathlib import Path

import torch
from models import CARD, ROOT, choose, cut_at_words, store
from results import so_far, write

from gpt_nb.chat import (MARKS, MET, MISSING, SAID, UNSEEN, Turn, answerable, as_messages,
                         ask, clause, dialogue, facts_in, for_chat, judge, leaning, near_miss,
                         new_turn, outside, replies, retold, talk, told, untold, with_clause,
                         word_lists)
from gpt_nb.finetuning import Examples, Row, pad_of
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.retrieval import Shelf
from gpt_nb.tales import STOP, Story, Tales, called
from gpt_nb.tokenizer import GPT2_SPLIT, BPETokenizer, Tokenizer
from gpt_nb.training import Run, TrainConfig, check_new, train

LANGS = ("en", "zh")
TEST, LEARN = 3_000_000, 5_000_000   # seeds of stories, the first of many
SHAPE = dict(n_layer=4, d_model=128, n_head=4, d_head=32, d_ff=320, tie_embeddings=False)
STAGES = [   # rows that are read, and how: to tell words apart first, then talks
    (dict(listed=7_200, again=1_600, came=800),
     dict(lr=0.01, muon_lr=0.02, decay=0.3, final_lr=0.5)),
    (dict(came=3_200, listed=800, checked=3_600, marked=1_600, again=400),
     dict(lr=0.006, muon_lr=0.012, decay=0.3, final_lr=0.5)),
    (dict(marked=14_400, checked=1_600, came=2_400, again=800),
     dict(lr=0.006, muon_lr=0.012, decay=0.3, final_lr=0.5)),
    (dict(state=24_000), dict(lr=0.008, muon_lr=0.016, decay=0.3, final_lr=0.5)),
    (dict(dense=30_000, marked=4_000, came=4_800, state=4_800),
     dict(lr=0.006, muon_lr=0.012, decay=0.9)),
    (dict(dense=22_400, retell=2_400), dict(lr=0.004, muon_lr=0.008, decay=0.95))]

TALKS, ASKED, ON_SHELF, TRIED = 250, 200, 5_000, 5   # to test, a language
NARROW, WIDE, CONTEXT = 112, 256, 320   # widths of rows, each compiled once; room for a talk
RATES = dict(optimizer="muon", batch_size=16, precision="bfloat16", compile=True,
             eval_every=500, log_every=50)
HOW = {"chat": (0, 1, 2), "all-tokens": (0,), "no-refusals": (0,)}   # and from which seeds
VERDICTS = ("right", "wrong", "refused")


# ---- a body of its own
@lru_cache(1)
def own_tokenizer() -> Tokenizer:
    "A token for each word of the talks: learned from texts that are cut at the words of the world."
    texts = [f"{QUIZ['en']} yes. no.", "\n".join([QUIZ["zh"], "对", "错"])] * 50
    for lang, seed in product(LANGS, range(LEARN, LEARN + 2_000)):
        for message in (*dialogue(Tales(lang), seed), *retold(Tales(lang), seed)[1:3]):
            text = message["role"] + "\n" + message["content"]
            texts += cut_at_words([text], level=1)
    return BPETokenizer.train(texts, 1_400, split=GPT2_SPLIT)


def body(seed: int) -> tuple[GPT, Tokenizer]:
    "A model that has read nothing, with the marks of messages."
    torch.manual_seed(seed)
    tok = own_tokenizer()
    ends = dict(bos_token_id=tok.end_id, eos_token_id=tok.end_id)
    return for_chat(GPT(GPTConfig("qwen3", tok.vocab_size, CONTEXT, **ends, **SHAPE)), tok)


# ---- what is read in training
QUIZ = dict(en="Which of these are true?", zh="这些对不对？")
YES, NO = dict(en=" yes", zh="对"), dict(en=" no", zh="错")
SAYS = dict(en=("Only {} smiled.", "The dream of {} came true."),
            zh=("只有{}笑了。", "{}的梦想实现了。"))


class Desk:
    "Where rows are written, token by token, with what is to be learned under each."
    def __init__(self, tok: Tokenizer, world: Tales, width: int):
        self.tok, self.lang, self.width = tok, world.lang, width
        self.start, self.end = (tok.special_tokens[name] for name in MARKS)
        self.ids, self.targets = [], []

    def encode(self, text: str) -> list[int]:
        "Tokens of a text that stands behind others."
        return self.tok.encode(" " + text if self.lang == "en" else text)

    def mark(self, fits: bool) -> int:
        "The token for yes or no."
        return self.tok.encode((YES if fits else NO)[self.lang])[0]

    def put(self, ids: list[int], targets: list[int] | None = None) -> None:
        "Tokens, and what is learned under them."
        self.ids += ids
        self.targets += targets or [-100] * len(ids)

    def open(self, role: str) -> None:
        "The head of a message."
        self.put([self.start, *self.tok.encode(role + "\n")])

    def close(self) -> None: self.put([self.end, *self.tok.encode("\n")])

    def say(self, role: str, text: str, learn: bool, marks: list[int] | None = None) -> None:
        "A message; learn: its words. Marks stand under them instead."
        self.open(role)
        ids = [*self.tok.encode(text), self.end]
        if learn: self.targets[-1] = ids[0]
        own = [*ids[1:], -100] if learn else [-100] * len(ids)
        self.put(ids, marks or own)
        self.put(self.tok.encode("\n"))

    def turn(self, turn: Turn, marks: list[int] | None = None) -> None:
        "A question and its answer, which is learned."
        self.say("user", turn.text, False, marks)
        self.say("assistant", turn.answer, True)

    def story(self, story: Story, learn: bool = False) -> None:
        "The text that may be used."
        self.say("system", story.text, learn)

    def row(self) -> Row:
        "What stands here, filled up to the width."
        fill = self.width - len(self.ids)
        if fill < 0: return self.ids[:fill], self.targets[:fill]
        return self.ids + [pad_of(self.tok)] * fill, self.targets + [-100] * fill


def names_in(story: Story) -> list[str]:
    "Of its two people."
    return [called(story, "name", i) for i in (0, 1)]


def words_in(story: Story) -> set[str]:
    "What its text names."
    known = {getattr(entry, story.lang) for entry in story.known.values()}
    return {word for word in known if word in story.text}


def smiler(story: Story) -> str: return names_in(story)[story.events[-1].who]


def again(tok: Tokenizer, world: Tales, seed: int) -> Row:
    "A text that is learned, then whom it is about, then the text again."
    desk = Desk(tok, world, WIDE)
    for message in retold(world, seed):
        desk.say(message["role"], message["content"], message["role"] != "user")
    return desk.row()


def listed(tok: Tokenizer, world: Tales, seed: int) -> Row:
    "A drill: under each of many words, whether the text has it."
    story, rng, desk = world.sample(seed), random.Random(f"listed {seed}"), Desk(tok, world, NARROW)
    words = [getattr(entry, world.lang) for kind in KNOWN_KINDS for entry in word_lists()[kind]]
    there = sorted(words_in(story))
    away = [word for word in words if word not in story.text]
    some = there + rng.sample(away, 2 * len(there))
    rng.shuffle(some)
    desk.story(story)
    desk.open("assistant")
    for word in some:
        ids = min(desk.encode(word), desk.encode(word + "的"), key=len)   # as texts have it
        desk.put(ids, [-100] * (len(ids) - 1) + [desk.mark(word in there)])
    return desk.row()


KNOWN_KINDS = ("female", "male", "trait", "place", "thing", "look", "woman", "man")


def came(tok: Tokenizer, world: Tales, seed: int) -> Row:
    "A drill: whether the dream came true."
    story, rng, desk = world.sample(seed), random.Random(f"came {seed}"), Desk(tok, world, NARROW)
    desk.story(story)
    desk.turn(ask(story, "true", called(story, "name", story.scene.wish[0]), rng))
    return desk.row()


def state(tok: Tokenizer, world: Tales, seed: int) -> Row:
    "A drill: what a reader keeps in mind, under the words of a story and of questions about it."
    story, rng, desk = world.sample(seed), random.Random(f"state {seed}"), Desk(tok, world, WIDE)
    desk.say("system", story.text, False, [*in_mind(desk, story), -100])
    asked = [pair for pair, fact in facts_in(story).items() if fact and pair[0] in LOOKED_UP]
    asked += rng.sample(untold(story), 3)
    for kind, about in rng.sample(asked, len(asked)):
        turn = ask(story, kind, about, rng)
        marks = [who_is(desk, story, tok.decode([i]).strip()) for i in tok.encode(turn.text)]
        desk.turn(turn, [*marks, -100])
    return desk.row()


LOOKED_UP = ("role", "at", "thing", "look", "dream", "true")


def who_is(desk: Desk, story: Story, name: str) -> int:
    "The token for what a person is, to be learned under the name."
    names = names_in(story)
    if name not in names: return -100
    return desk.encode(called(story, "role", names.index(name)))[0]


def in_mind(desk: Desk, story: Story) -> list[int]:
    "Under a name or pronoun what the person is, under a thing who has it, at a stop who is where."
    scenes, names, marks, i = [*story.scenes, story.scene], names_in(story), [], 0
    for word in (desk.tok.decode([token]).strip() for token in desk.tok.encode(story.text)):
        event, before, after, said = story.events[i], scenes[i], scenes[i + 1], word
        if word.lower() in PRONOUNS and before.last is not None: said = names[before.last]
        if word == called(story, "thing", 0):
            how, where = (before.things or after.things)[0]
            said = names[where] if how == "with" else called(story, "place", where)
            marks.append(desk.encode(said)[0])
        elif word == STOP[story.lang]:
            at = None if event.who is None else after.people[event.who].at
            marks.append(-100 if at is None else desk.encode(called(story, "place", at))[0])
            i += 1
        else: marks.append(who_is(desk, story, said))
    return marks


PRONOUNS = ("she", "he", "her", "his", "她", "他")


def checked(tok: Tokenizer, world: Tales, seed: int) -> Row:
    "A drill: many clauses, and who smiled; under each word, whether all fits so far."
    story, rng, desk = world.sample(seed), random.Random(f"checked {seed}"), Desk(tok, world, WIDE)
    desk.story(story)
    while True:
        if rng.random() < 0.3:
            name, form = rng.choice(names_in(story)), rng.choice(SAYS[world.lang])
            ids, fits = desk.encode(form.format(name)), desk.mark(name == smiler(story))
            marks = [fits if tok.decode([i]).strip() == name else -100 for i in ids]
            marks[-2] = fits
        else:
            about = near_miss(story, rng) if rng.random() < 0.65 else story
            ids = tok.encode(clause(about).rstrip())
            marks = marks_of(desk, story, ids, ids, False)
        if len(desk.ids) + len(ids) > WIDE: return desk.row()
        desk.put(ids, marks)


def marks_of(desk: Desk, story: Story, ids: list[int], inside: list[int], empty: bool) -> list[int]:
    "Under each word that names something: whether it and all before it fit the story."
    texts = [desk.tok.decode([i]).strip().removesuffix("的") for i in ids]
    meant = [] if empty else [called(story, *slot) for slot in MET]
    there = set() if empty else words_in(story)
    marks, fits, colon = [], True, desk.tok.encode("：" if desk.lang == "zh" else ":")[0]
    in_clause = colon in inside and texts[0] in ("In", "在")
    for i, text in zip(ids, texts):
        mark = -100
        if in_clause and i == colon: in_clause, mark = False, desk.mark(fits)
        word = next((w for w in (text, text.capitalize()) if w in all_words(desk.lang)), None)
        if word and in_clause:
            fits = fits and bool(meant) and meant.pop(0) == word
            mark = desk.mark(fits)
        elif word:
            fits = fits and word in there
            mark = desk.mark(fits)
        marks.append(mark)
    return marks


@lru_cache(2)
def all_words(lang: str) -> frozenset[str]:
    "The words of level 1 that name something."
    lists = word_lists()
    return frozenset(getattr(entry, lang) for kind in KNOWN_KINDS for entry in lists[kind])


def asked_long(story: Story, rng: random.Random, hard: bool) -> Iterator[Turn]:
    "Questions without end, each kind once about each; hard: more that cannot be answered."
    last, seen, tries = None, set(), 0
    while True:
        turn = None
        if last and last.fact and rng.random() < 0.4: turn = leaning(story, last, rng)
        if turn is None: turn = hard_turn(story, rng) if hard else new_turn(story, rng)
        key, tries = (turn.kind, turn.about, turn.missing), tries + 1
        if key in seen and tries < 40 and turn.missing != "others": continue
        seen.add(key)
        last = turn
        yield turn


def hard_turn(story: Story, rng: random.Random) -> Turn:
    "A question that is nearly as often without an answer as with one."
    if rng.random() < 0.55: turn = answerable(story, rng)
    else: turn = rng.choices(list(MISSING.values()), (4, 4, 8, 18, 1))[0](story, rng)
    if turn.missing == "others" or rng.random() < 0.4: return turn
    return turn._replace(text=with_clause(story, turn.text))


def marked(tok: Tokenizer, world: Tales, seed: int, marks: bool = True) -> Row:
    "A story and as many questions as fit; under the words of a question, whether all fits so far."
    story, rng, desk = world.sample(seed), random.Random(f"marked {seed}"), Desk(tok, world, WIDE)
    empty = rng.random() < 1 / 25
    if not empty: desk.story(story)
    for turn in asked_long(story, rng, marks):
        if empty: turn = turn._replace(fact=None, missing="no text")
        ids = tok.encode(turn.text)
        under = [*marks_of(desk, story, ids, ids, empty), desk.mark(turn.fact is not None)]
        kept = len(desk.ids)
        desk.turn(turn, under if marks else None)
        if len(desk.ids) <= WIDE + 1: continue
        del desk.ids[kept:], desk.targets[kept:]
        return desk.row()


def dense(tok: Tokenizer, world: Tales, seed: int) -> Row:
    "A story and as many questions as fit."
    return marked(tok, world, seed, marks=False)


def easy(tok: Tokenizer, world: Tales, seed: int) -> Row:
    "Up to four questions that can all be answered."
    return talk_row(tok, dialogue(world, seed, refuse=False))


def mixed(tok: Tokenizer, world: Tales, seed: int) -> Row:
    "A talk as it is tested."
    return talk_row(tok, dialogue(world, seed))


def retell(tok: Tokenizer, world: Tales, seed: int) -> Row:
    "Whom a text is about, then the text again."
    return talk_row(tok, retold(world, seed))


def talk_row(tok: Tokenizer, messages: list[dict]) -> Row:
    "What `chat_row` makes of a talk in our own template, some five times as fast, and its filling."
    desk = Desk(tok, Tales("en"), WIDE)
    for message in messages:
        desk.say(message["role"], message["content"], message["role"] == "assistant")
    return desk.row()


KINDS = dict(again=again, listed=listed, came=came, checked=checked, marked=marked,
             state=state, dense=dense, retell=retell, mixed=mixed, easy=easy)


# ---- learning
def rows_of(tok: Tokenizer, number: int, how: str) -> list[Row]:
    "What one stage reads: of each kind so many rows, every other one Chinese."
    worlds, rows = [Tales(lang) for lang in LANGS], []
    for i, (kind, n) in enumerate(STAGES[number][0].items()):
        first = LEARN + 2_000_000 * number + 200_000 * i
        if how == "no-refusals" and kind in ("marked", "dense", "mixed"): kind = "easy"
        rows += [KINDS[kind](tok, worlds[k % 2], first + k) for k in range(n)]
    if how == "all-tokens": rows = [(x, x[1:] + y[-1:]) for x, y in rows]
    return rows


def fit(model: GPT, tok: Tokenizer, rows: list[Row], out: Path, **settings) -> Run:
    "Read each row once, or go on where it was stopped."
    examples = Examples("chat", rows, [], (), pad_of(tok), tok.end_id, tok.vocab_size)
    config = TrainConfig(**RATES | settings | dict(steps=len(rows) // RATES["batch_size"]))
    resume = (out / "state").is_dir()
    if not resume: check_new(out)
    return train(model, examples, config, tok, out, resume, options=dict(task="chat"))


def learn(how: str, seed: int) -> Run:
    "Drills first, then talks."
    torch._dynamo.config.automatic_dynamic_shapes = False
    out = ROOT / "runs" / "chat" / f"{how}-{seed}"
    begun = [number for number in range(1, len(STAGES)) if (out / str(number)).is_dir()]
    first = max(begun, default=0)   # the stages before it are done
    run = Run.open(out / str(first - 1)) if first else Run(*body(seed), None, [])
    for number, (_, settings) in list(enumerate(STAGES))[first:]:
        rows = rows_of(run.tok, number, how)
        run = fit(run.model, run.tok, rows, out / str(number), seed=seed, **settings)
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
    rows = {"rows read": f"{read:,}", "seconds": f"{row['seconds']:,}"}
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


def seconds_of(how: str, seed: int) -> int:
    "How long all stages of a training took, on the clock."
    records = (ROOT / "runs" / "chat" / f"{how}-{seed}").glob("*/training.json")
    return round(sum(json.loads(path.read_text("utf-8"))["seconds"] for path in records))


def main() -> None:
    "Measure what is not measured yet."
    content = so_far("chat") or dict(runs=[])
    names = choose(HOW, "training", __doc__)
    if "baselines" not in content:
        content["baselines"] = {lang: baselines(lang) for lang in LANGS}
        write("chat", content)
    for how, seed in [(how, seed) for how in names for seed in HOW[how]]:
        if any((row["how"], row["seed"]) == (how, seed) for row in content["runs"]): continue
        run = learn(how, seed)
        row = dict(how=how, seed=seed, seconds=seconds_of(how, seed))
        row |= {lang: measure(run, lang) for lang in LANGS}
        content["runs"].append(row)
        content["runs"].sort(key=lambda run: (list(HOW).index(run["how"]), run["seed"]))
        write("chat", content)
        print(how, seed, {lang: row[lang]["talks"] for lang in LANGS})
        if (how, seed) == ("chat", 0): put_into_the_house(run, row)


if __name__ == "__main__": main()
