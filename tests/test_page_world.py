"""The world in JavaScript says what the world in Python says, in node and in a browser."""
import json
import math
import random
import shutil
import subprocess
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from browser import CHROMIUM, missing, running, started

from gpt_nb import tales
from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.evaluation import true_next
from gpt_nb.page import WEB, page_tokenizer, serve, world_data
from gpt_nb.tales import Tales, join
from gpt_nb.tokenizer import CharTokenizer

MODELS = Path(tales.__file__).parent / "models"
WORLDS = [(lang, level) for lang in ("en", "zh") for level in (1, 2, 3)]
RUN = """
import {readFileSync, writeFileSync} from "node:fs";
import {answer} from "./world_answers.js";
const asked = JSON.parse(readFileSync("asked.json", "utf8"));
writeFileSync("answers.json", JSON.stringify(answer(asked)));
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "The page's files and what answers; node takes a file for a module where a package says so."
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(WEB, folder / "web")
    shutil.copy(Path(__file__).parent / "world_answers.js", folder)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "run.js").write_text(RUN)
    (folder / "index.html").write_text('<!doctype html><link rel="icon" href="data:,">')
    return folder


@pytest.fixture(scope="module")
def in_browser(folder):
    "A browser that has opened the folder and is allowed nothing outside."
    if CHROMIUM is None: pytest.skip(missing())
    with running(serve(folder)) as base, started() as browser:
        page = browser.new_page()
        page.route(lambda url: not url.startswith(base), lambda route: route.abort())
        page.goto(f"{base}/index.html")
        yield lambda asked: page.evaluate(
            "async (asked) => (await import('/world_answers.js')).answer(asked)", asked)


@pytest.fixture(params=["node", "browser"])
def ask(request, folder):
    "ask([[language, level, question, ...], ...]) -> the answers"
    data = {lang: json.loads(json.dumps(world_data(lang))) for lang in ("en", "zh")}
    if request.param == "browser":
        there = request.getfixturevalue("in_browser")
        return lambda asked, **toks: there(dict(data=data, toks=toks, asked=asked))
    if shutil.which("node") is None: pytest.skip(missing())
    return lambda asked, **toks: in_node(folder, dict(data=data, toks=toks, asked=asked))


def in_node(folder, asked):
    (folder / "asked.json").write_text(json.dumps(asked))
    subprocess.run(["node", "run.js"], cwd=folder, check=True)
    return json.loads((folder / "answers.json").read_text())


def agree(found, wanted):
    "Whether two distributions are the same, likeliest first."
    shares = dict(found)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert shares.keys() == wanted.keys()
    assert all(abs(shares[key] - p) < 1e-9 for key, p in wanted.items())


def prefixes(world, n, rng):
    "Stories cut between two words, some of them told wrongly there, some in the middle of a word."
    for _ in range(n):
        words = world.sample(rng.randrange(10**6)).words
        some = words[:rng.randrange(len(words) + 1)]
        text, how = join(some, world.lang), rng.random()
        if how < 0.1 and some: text = text[:-1]
        elif how < 0.2: text += rng.choice(["\n", "  ", "\u3000", "\x1c"])
        elif how < 0.3 and some:
            some[rng.randrange(len(some))] = rng.choice(words)
            text = join(some, world.lang)
        yield text


def truth(world, prefix):
    try: return world.next(prefix)
    except ValueError: return {}


@cache
def true_cases(lang, level):
    "Beginnings of stories and the truth about what follows, once for node and browser."
    world, rng = Tales(lang, level), random.Random(level)
    texts = ["", " ", world.sample(0).text, *prefixes(world, 600 if level < 3 else 100, rng)]
    return {text: truth(world, text) for text in texts}


@pytest.mark.parametrize("lang, level", WORLDS)
def test_next(ask, lang, level):
    wanted = true_cases(lang, level)
    impossible = sum(not shares for shares in wanted.values()) / len(wanted)
    assert 0.05 < impossible < 0.3 and wanted[""] and {"<|end|>": 1.0} in wanted.values()
    found = ask([[lang, level, "next", text] for text in wanted])
    for shares, true in zip(found, wanted.values()): agree(shares, true)


def begun(world, prefix):
    "What may be appended to end the word that the prefix stops in, or the next one."
    found, shares = tales.read(world, prefix), Counter()
    if not found: return {}
    _, scene, known, rest = found
    if scene.over: return {} if rest else {"<|end|>": 1.0}
    for p, _, _, lacks in tales.begun(world, rest, scene, known):
        shares[lacks if prefix else lacks.strip()] += p
    return {lacks: p / shares.total() for lacks, p in shares.items()}


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_begun(ask, lang):
    world, rng = Tales(lang, 2), random.Random(2)
    stories = [world.sample(seed).text for seed in range(15)]
    texts = ["", *(text[:rng.randrange(len(text) + 1)] for text in stories for _ in range(10))]
    texts += [*stories, stories[0] + ".", stories[0] + "x"]
    for text, found in zip(texts, ask([[lang, 2, "begun", text] for text in texts])):
        agree(found, begun(world, text))
    assert not found


@pytest.mark.parametrize("lang, level", WORLDS)
def test_log2prob(ask, lang, level):
    world, rng = Tales(lang, level), random.Random(level)
    texts = [*prefixes(world, 50, rng), *world.texts(10)]
    asked = [[lang, level, "log2prob", text, whole] for text in texts for whole in (True, False)]
    wanted = [world.log2prob(text, complete=whole) for *_, text, whole in asked]
    assert sum(map(math.isfinite, wanted)) > 40
    wanted = [bits if math.isfinite(bits) else None for bits in wanted]
    assert ask(asked) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("lang, level", WORLDS)
def test_sample(ask, lang, level):
    "With the numbers that Python drew, the story that Python told."
    world = Tales(lang, level)
    numbers = [[rng.random() for _ in range(200)] for rng in map(random.Random, range(40))]
    found = ask([[lang, level, "sample", some] for some in numbers])
    assert found == [world.sample(seed).text for seed in range(40)]


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_sample_as_often_as_next(ask, lang):
    world, n = Tales(lang, 1), 2000
    [counts] = ask([[lang, 1, "firstWords", n, 3]])
    squares, places = 0.0, 0
    for beginning, count in counts:
        expected, words = float(n), beginning.split()
        for i, word in enumerate(words): expected *= world.next(join(words[:i], lang))[word]
        squares, places = squares + (count - expected)**2 / expected, places + 1
    assert sum(count for _, count in counts) == n
    freedom = places - 1
    assert places > 10 and abs(squares - freedom) < 5 * math.sqrt(2 * freedom)


# ---- the checker

ODD = ["xyz", "don't", 'a"b', '"', "'", "\\", "é", "你好", "<|end|>", "7", "\x00", "\ufeff", "😀",
       "\x85", "\u2028", "\u0301", "١", "_", "-", "｡"]   # the last: a stop of another width


def broken(story, rng):
    "The words of a story with some of them swapped, dropped, doubled or replaced."
    words, lang = list(story.words), story.lang
    named = [getattr(entry, lang) for entry in tales.KIND]
    said = sorted(tales.known_words(lang))
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        i, j, how = rng.randrange(len(words)), rng.randrange(len(words)), rng.randrange(7)
        if how == 0: words[i], words[j] = words[j], words[i]
        if how == 1: words[i:i + 1] = []
        if how == 2: words.insert(i, words[j])
        if how == 3: words[i] = rng.choice(said)
        if how == 4: words[i] = rng.choice(ODD)
        if how == 5: words = words[:i]
        if how == 6: words = [rng.choice(named) if w in named and rng.random() < 0.1 else w
                              for w in words]
        if not words: break
    return words


def sentences_moved(story, rng):
    "A story with two of its sentences exchanged, and one said twice or left out."
    stop, cut, rest = tales.STOP[story.lang], [], list(story.words)
    while rest:
        at = rest.index(stop) + 1
        cut, rest = [*cut, rest[:at]], rest[at:]
    i, j, k = (rng.randrange(len(cut)) for _ in range(3))
    cut[i], cut[j] = cut[j], cut[i]
    cut[k:k + 1] = rng.choice([[], [cut[k], cut[k]]])
    return [word for sentence in cut for word in sentence]


def any_text(rng):
    "Characters of all scripts, as far as this Python knows them."
    ranges = [(0, 0x250), (0, 0x250), (0x2000, 0x3100), (0x4e00, 0x9fa6), (0, 0x110000)]
    chars = [chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(60))]
    return "".join(c for c in chars if unicodedata.category(c) not in ("Cs", "Cn"))


def texts_to_check(lang, rng, n):
    for level in (1, 2, 3):
        world = Tales(lang, level)
        for _ in range(n):
            story = world.sample(rng.randrange(10**6))
            yield from (story.text, story.translation, any_text(rng))
            for _ in range(5): yield join(broken(story, rng), lang)
            for _ in range(3): yield join(sentences_moved(story, rng), lang)


def judged(text, lang):
    "(end, well formed, facts, reasons) of each sentence, by the checker of Python."
    checker, result, words = tales.Checker(lang), [], []
    for found in tales.unit(lang).finditer(text):
        words.append(found[0])
        if found[0] != tales.STOP[lang]: continue
        facts, reasons = len(checker.facts), len(checker.reasons)
        fine = checker.sentence(words)
        result.append([found.end(), fine, checker.facts[facts:], checker.reasons[reasons:], words])
        words = []
    for *_, reasons, words in result:
        unknown = [word for word in dict.fromkeys(words) if word not in tales.known_words(lang)]
        reasons += [tales.REASONS[lang]["word"].format(text=tales.quoted(word, lang))
                    for word in unknown]
    return result


@cache
def checked(lang):
    texts = ["", " \n", *texts_to_check(lang, random.Random(0), 25)]
    return {text: Tales(lang, 2).check(text) for text in texts}


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_check(ask, lang):
    wanted, kinds = checked(lang), set()
    answers = ask([[lang, 2, "check", text] for text in wanted])
    for (text, true), found in zip(wanted.items(), answers):
        assert [found[key] for key in true._fields[:-1]] == pytest.approx(list(true[:-1])), text
        assert found["reasons"] == true.reasons, text
        units = len(text.encode("utf-16-le")) // 2
        if units != len(text): continue     # places count what JavaScript counts
        for each, (end, fine, facts, reasons, _) in zip(found["each"], judged(text, lang)):
            assert [each["end"], each["wellFormed"], each["facts"]] == [end, fine, facts]
            assert sorted(each["reasons"]) == sorted(reasons)
            kinds |= {reason.split()[0] for reason in reasons}
        assert len(found["each"]) == len(judged(text, lang))
    assert sum(check.story for check in wanted.values()) > 70 and len(kinds) > 20


# ---- the next token

def ways_on(world, text, scene, known, p, sentences):
    "Every way to end the sentence that begins with the text, and to tell so many in all."
    if scene.over or not sentences:
        yield p, ""
        return
    for event, chance in world._chances(scene).items():
        told = tales.ways(event, scene, world._level)
        for way in told:
            atoms = tales.fill(getattr(way, world.lang), way.event, world.lang)
            for q, then, said in spellings(world, atoms, text, known, p * chance / len(told)):
                after = tales.happen(scene, way.event, tales.newcomer(way.event, then))
                for r, more in ways_on(world, "", after, then, q, sentences - 1):
                    yield r, said + more


def spellings(world, atoms, text, known, p):
    "Every way to say the atoms that begins with the text: probability, known, what is added."
    if not atoms:
        if not text: yield p, known, ""
        return
    slot, lang = tales.entry_of(atoms[0]), world.lang
    new = slot is not None and slot not in known
    entries = tales.candidates(world, slot, known) if new else [None]
    for entry in entries:
        then = known | {slot: entry} if new else known
        said = tales.surface(tales.spell(then, atoms[0], lang), lang)
        if text.startswith(said): rest, added = text[len(said):], ""
        elif said.startswith(text): rest, added = "", said[len(text):]
        else: continue
        for q, last, more in spellings(world, atoms[1:], rest, then, p / len(entries)):
            yield q, last, added + more


def by_trying_all(world, tok, ids, most=1500):
    "The next token's shares: every way to go on for two sentences, tokenized; None: too many."
    data = b"".join(map(tok.token_bytes, ids))
    text = data.decode(errors="ignore")
    half, found = data[len(text.encode()):], tales.read(world, text)
    if found is None or not data.startswith(text.encode()): return {}
    _, scene, known, rest = found
    if scene.over: return {} if rest or half else {tok.end_id: 1.0}
    shares = Counter()
    for n, (p, more) in enumerate(ways_on(world, rest, scene, known, 1.0, 2)):
        if n == most: return None
        if not more.encode().startswith(half): continue
        told = tok.encode(text + more) + [tok.end_id]
        if told[:len(ids)] == ids: shares[told[len(ids)]] += p
    return {i: p / shares.total() for i, p in shares.items()}


@cache
def tried(name, level, n=50):
    "Tokens of beginnings that do not go on in too many ways, and the truth about each."
    world, tok, rng = Tales("zh", level), load_tokenizer(MODELS / name), random.Random(level)
    halves = [i for i in range(tok.end_id) if tok.decode([i])[-1] == "\ufffd"]
    rows, wanted = [], []
    while len(wanted) < n:
        ids = tok.encode(world.sample(rng.randrange(10**6)).text)
        ids = ids[:rng.randrange(len(ids) // 2, len(ids) + 1)]
        if rng.random() < 0.1: ids[-1] = rng.randrange(tok.end_id)
        elif rng.random() < 0.2: ids[-1] = rng.choice(halves)   # a tokenizer of words has few
        shares = by_trying_all(world, tok, ids)
        if shares is None: continue
        rows.append(ids)
        wanted.append(shares)
    return tok, rows, wanted


@pytest.mark.parametrize("name, level", [("tales-zh", 1), ("tales-zh", 2), ("tales-both", 2),
                                         ("tales-short", 1)])
def test_next_token_where_tokens_join_words(ask, name, level):
    tok, rows, wanted = tried(name, level)
    asked = [["zh", level, "nextTokens", name, ids] for ids in rows]
    for found, true in zip(ask(asked, **{name: page_tokenizer(tok)}), wanted): agree(found, true)
    halves = sum(tok.decode(ids)[-1] == "\ufffd" for ids in rows)
    said = [tok.token_bytes(i) for true in wanted for i in true]
    over_a_stop = [data for data in said if data.startswith("。".encode()) and len(data) > 3]
    assert halves > 4 and over_a_stop
    assert {} in wanted and sum(len(true) > 1 for true in wanted) > 4


def by_sampling(rows, paths, least):
    "(ids, how often each token came next) along some stories, as long as many begin so."
    for path in paths:
        begin_so, i = rows, 0
        while len(begin_so) >= least:
            yield path[:i], Counter(row[i] for row in begin_so)
            begin_so = [row for row in begin_so if row[i] == path[i]]
            i += 1


@cache
def counted(name, level):
    tok = load_tokenizer(MODELS / name)
    rows = [ids + [tok.end_id] for ids in tok.encode_batch(Tales("zh", level).texts(10_000))]
    return tok, list(by_sampling(rows, rows[:15], 300))


@pytest.mark.parametrize("name, level", [("tales-zh", 1), ("tales-both", 2), ("tales-short", 1)])
def test_next_token_as_often_as_it_comes(ask, name, level):
    "The beginnings of stories, which have too many ways to go on to try them all."
    tok, cases = counted(name, level)
    asked = [["zh", level, "nextTokens", name, ids] for ids, _ in cases]
    worst = 0.0
    for (ids, counts), found in zip(cases, ask(asked, **{name: page_tokenizer(tok)})):
        shares, n = dict(found), counts.total()
        assert counts.keys() <= shares.keys() and sum(shares.values()) == pytest.approx(1)
        terms = [(counts[i] - n * p)**2 / (n * p) for i, p in found if n * p > 5]
        if len(terms) > 1: worst = max(worst, (sum(terms) - len(terms)) / math.sqrt(2 * len(terms)))
    assert worst < 6 and len(cases) > 20


@pytest.mark.parametrize("name, level", [("tales-en", 2), ("tales-both", 2), ("tales-short", 1),
                                         ("characters", 1)])
def test_next_token_in_english(ask, name, level):
    world = Tales("en", level)
    texts = [world.sample(seed).text for seed in range(4)]
    tok = CharTokenizer.train(world.texts(200)) if name == "characters" \
        else load_tokenizer(MODELS / name)
    asked, wanted = [], []
    for ids in map(tok.encode, texts):
        asked += [["en", level, "nextTokens", name, ids[:i]] for i in range(len(ids) + 1)]
        wanted += true_next(world, tok, ids)
    for found, true in zip(ask(asked, **{name: page_tokenizer(tok)}), wanted): agree(found, true)


def test_next_token_of_single_characters_in_chinese(ask):
    world = Tales("zh", 1)
    tok = CharTokenizer.train(world.texts(300))
    asked, wanted = [], []
    for text in world.texts(3, seed=1):
        ids = tok.encode(text)
        asked += [["zh", 1, "nextTokens", "characters", ids[:i]] for i in range(len(ids) + 1)]
        wanted += true_next(world, tok, ids)
    for found, true in zip(ask(asked, characters=page_tokenizer(tok)), wanted): agree(found, true)


def test_no_next_token_where_no_story_begins_so(ask):
    tok = load_tokenizer(MODELS / "tales-zh")
    text = Tales("zh", 2).sample(0).text
    by_bytes = [tok.token_to_id(bytes([b])) for b in text.encode()]
    rows = [by_bytes, by_bytes[:-1], tok.encode(text) + [tok.end_id], tok.encode("朋友"), [255]]
    asked = [["zh", 2, "nextTokens", "tales-zh", ids] for ids in rows]
    assert ask(asked, **{"tales-zh": page_tokenizer(tok)}) == [[]] * len(rows)


# ---- the rest

def test_fast_enough(folder):
    "On the longest beginnings, the sentences before them read or not."
    if shutil.which("node") is None: pytest.skip(missing())
    data, asked = {lang: world_data(lang) for lang in ("en", "zh")}, []
    for lang in data:
        texts = sorted(Tales(lang, 2).texts(200), key=len)[-40:]
        asked += [[lang, 2, "seconds", text[:-len(text) // 20]] for text in texts]
    seconds = sorted(in_node(folder, dict(data=data, toks={}, asked=asked)))
    assert seconds[len(seconds) // 2] < 0.005


def test_what_is_no_text_in_python(folder):
    "Halves of surrogate pairs, which only JavaScript has, are words of no world."
    if shutil.which("node") is None: pytest.skip(missing())
    odd = ["\ud800", "Once \udc00 there .", "a\ud83d."]
    asked = [["en", 2, what, text] for what in ("check", "next") for text in odd]
    answers = in_node(folder, dict(data=dict(en=world_data("en")), toks={}, asked=asked))
    assert answers[3:] == [[], [], []]
    assert all(found["words"] < 1 and found["story"] == 0 for found in answers[:3])


def test_data_are_small_and_whole():
    for lang in ("en", "zh"):
        data = json.loads(json.dumps(world_data(lang)))
        words = [word for entries in data["words"].values() for word, *_ in entries]
        assert len(words) == len(set(words)) == len(tales.KIND)
        assert len(json.dumps(data, ensure_ascii=False).encode()) < 20_000
        for kind, forms in tales.LONGEST.items():   # the page asks this of its own language
            for key in ("{place}", "{trait}"):
                assert len({key in form for pair in forms for form in pair}) == 1, kind
