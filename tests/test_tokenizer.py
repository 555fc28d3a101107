"""gpt_nb.tokenizer against `tokenizers` and `transformers`, on text of all scripts and on broken
files."""
import json
import os
import pickle
import random
import subprocess
import sys
from collections import Counter

import pytest
import regex
from hypothesis import given, settings, strategies as st
from pydoc_data.topics import topics
from tokenizers import (
    AddedToken, Regex, Tokenizer as Engine, decoders, models, normalizers, pre_tokenizers,
    processors, trainers)
from transformers import AutoTokenizer

from gpt_nb.checkpoint import load_tokenizer, open_spec
from gpt_nb.tokenizer import (
    END, GPT2_SPLIT, GPT4_SPLIT, UNK, BPETokenizer, CharTokenizer, WordTokenizer,
    encode_by_hand, merge_pairs, train_merges)

ENGLISH = list(topics.values())[:12]
CHINESE = [
    "今天天气很好，小明带着红色的风筝去公园。",
    "今天天气不好，小红没有去公园，她在家里看书。",
    "“你看见我的风筝了吗？”小明问。“没有。”小红说。"] * 3
HARD = [
    "", " ", "\n\n \t x", "Hello, world!",
    "don't DON'T 'ſ \u212a",
    "今天天气 mañana Straße",
    "👩‍👩‍👧 🇩🇪 é e\u0301",
    "\x00\x01\x7f\x85\u3000\u2028",
    "x" * 3000, "=" * 500 + "\n" * 300,
    "123456789 ١٢٣",
    "<|end|>", "a<|end|>b <|endoftext|>",
    "\ufeff\uffff\U0010ffff",
    "가나다 हिन्दी ไทย עברית العربية"]
MANY_MERGES = st.text("aab \n'.，今天", max_size=20)
PARTS = st.one_of(st.text(max_size=8), st.sampled_from(HARD), MANY_MERGES)
TEXT = st.lists(PARTS, max_size=6).map("".join)


@pytest.fixture(scope="module")
def bpe(): return BPETokenizer.train(ENGLISH + CHINESE, 1000)


@pytest.fixture(scope="module")
def every(bpe):
    texts = ENGLISH + CHINESE
    return [bpe,
            BPETokenizer.train(texts, 600, ["<|end|>", "<|user|>"], split=GPT2_SPLIT),
            CharTokenizer.train(texts),
            WordTokenizer.train(texts, 5000)]


# training

def naive_merges(words, n_merges):
    "Recount everything for every merge."
    words, merges = {tuple(w): n for w, n in words.items()}, []
    def merge(w, pair, new):
        out = []
        for i in w:
            if out and (out[-1], i) == pair: out[-1] = new
            else: out.append(i)
        return tuple(out)
    for new in range(256, 256 + n_merges):
        counts = Counter()
        for w, n in words.items():
            for pair in zip(w, w[1:]): counts[pair] += n
        pair = min(counts, key=lambda p: (-counts[p], p), default=None)
        if pair is None or counts[pair] < 2: break
        merges.append(pair)
        words = {merge(w, pair, new): n for w, n in words.items()}
    return merges


WORDS = st.one_of(st.text("ab", max_size=12), st.text("abcde 今", max_size=9)).map(str.encode)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(WORDS, st.integers(1, 9), max_size=25))
def test_trainer_equals_naive(words):
    assert train_merges(words, 40) == naive_merges(words, 40)


def test_trainer_equals_naive_on_real_text():
    words = Counter(w.encode() for w in regex.findall(GPT4_SPLIT, "\n".join(ENGLISH[:3] + CHINESE)))
    assert train_merges(words, 150) == naive_merges(words, 150)


def test_training_is_deterministic_and_independent_of_order(every):
    texts = ENGLISH + CHINESE
    shuffled = random.Random(0).sample(texts, len(texts))
    retrained = [BPETokenizer.train(shuffled, 1000),
                 CharTokenizer.train(shuffled),
                 WordTokenizer.train(iter(shuffled), 5000)]
    for again in retrained:
        before = next(t for t in every if type(t) is type(again))
        assert again.spec == before.spec and again.config == before.config


def test_vocab_sizes(bpe):
    assert bpe.vocab_size == 1000 and bpe.end_id == 999 and bpe.special_tokens == {END: 999}
    assert BPETokenizer.train([], 257).vocab_size == 257
    assert BPETokenizer.train(["abc"], 4096).vocab_size == 257           # no pair occurs twice
    words = WordTokenizer.train(["b a b a c"], 5)
    assert [words.decode([i]) for i in range(5)] == [" a", " b", " c", UNK, END]
    assert WordTokenizer.train(["a b"], 9, [UNK, "<|x|>"]).special_tokens == {UNK: 2, "<|x|>": 3}
    chars = CharTokenizer.train(["ba", "今"], ["<|end|>", "<|pad|>"])
    assert [chars.decode([i]) for i in range(5)] == ["a", "b", "今", "<|end|>", "<|pad|>"]


def test_long_pieces_do_not_slow_training():
    gene = "ACGT" * 5 + "".join(random.Random(0).choices("ACGT", k=20_000))
    tok = BPETokenizer.train([gene, "-" * 100_000], 400)
    assert tok.decode(tok.encode("GATTACA")) == "GATTACA"


# encoding and decoding

@settings(max_examples=120, deadline=None)
@given(TEXT)
def test_round_trip_and_engine(bpe, every, text):
    for tok in every[:2]:
        ids = tok.encode(text)
        assert tok.decode(ids) == text and tok.encode_batch([text]) == [ids]
        assert b"".join(map(tok.token_bytes, ids)) == text.encode()


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_round_trip_of_any_text(bpe, text):
    assert bpe.decode(bpe.encode(text)) == text


MADE = {(0, 1): 3, (1, 2): 4, (0, 0): 5, (3, 2): 6, (0, 4): 6, (5, 3): 7, (3, 3): 8, (5, 5): 9,
        (6, 6): 10, (2, 0): 11, (11, 1): 12}


@settings(max_examples=150, deadline=None)
@given(st.text("abc", max_size=60), st.permutations(sorted(MADE)))
def test_merge_pairs_takes_the_lowest_rank_first_in_any_order_of_ranks(text, order):
    merges = {pair: (rank, MADE[pair]) for rank, pair in enumerate(order)}
    ids = naive = ["abc".index(c) for c in text]
    while True:
        found = [(merges[p], i) for i, p in enumerate(zip(naive, naive[1:])) if p in merges]
        if not found: break
        (_, new), i = min(found)
        naive = naive[:i] + [new] + naive[i + 2:]
    assert merge_pairs(ids, merges) == naive


def test_what_is_given_twice_gets_one_id():
    "Else a character would have the id of a special token."
    assert CharTokenizer("aab").ids == {"a": 0, "b": 1}
    for tok in (CharTokenizer("aa"), WordTokenizer(["a", "a"])):
        assert tok.encode("a") == [0] and set(tok.special_tokens.values()).isdisjoint([0])


@pytest.mark.parametrize("merges", [[(97, 256)], [(97, 98), (257, 99)], [(-1, 98)]])
def test_merges_come_after_their_parts(merges):
    with pytest.raises(ValueError, match="comes before one of its tokens"): BPETokenizer(merges)


def test_words_and_characters_round_trip(every):
    for tok in every[2:]:
        for text in CHINESE + ENGLISH: assert tok.decode(tok.encode(text)) == text
    kite = "Mia's kite, “the red  one”\n\tno."
    words = WordTokenizer.train([kite], 99)
    assert [words.decode([i]) for i in words.encode(kite)] == [
        "Mia's", " kite", ",", " ", "“", "the", " red", " ", " one", "”", "\n", "\t", "no", "."]
    assert words.decode(words.encode("Mia's dog")) == "Mia's" + UNK
    assert words.encode("Tom<|end|>") == [words.special_tokens[UNK]] * 6


def test_ten_megabytes_of_one_letter():
    tok = BPETokenizer.train(["a" * 64] * 2, 280)
    text = "a" * 10_000_000
    assert tok.decode(tok.encode(text)) == text
    assert tok.encode("a" * 100_001) == merge_pairs([97] * 100_001, tok.merges)


def test_special_tokens_need_permission(every):
    for tok in every[:2]:
        text = f"a{END}b{END}{END}"
        assert tok.end_id not in tok.encode(text) + tok.encode_batch([text])[0]
        ids = tok.encode(text, allowed_special={END})
        assert ids == [97, tok.end_id, 98, tok.end_id, tok.end_id] and tok.decode(ids) == text
    nested = BPETokenizer.train([], 260, ["<|a|>", "<|a|><|b|>"])
    assert nested.encode("<|a|><|b|><|a|>", ["<|a|>", "<|a|><|b|>"]) == [257, 256]
    with pytest.raises(ValueError, match="no special tokens"):
        tok.encode("x", allowed_special=["<|nope|>"])
    with pytest.raises(TypeError, match="collection"): tok.encode("x", allowed_special=END)


def test_decode_takes_arrays_and_never_breaks(bpe):
    import numpy as np
    import torch
    text = "今天天气 🙂"
    ids = bpe.encode(text)
    assert bpe.decode(torch.tensor(ids)) == bpe.decode(np.array(ids, dtype=np.uint16)) == text
    assert bpe.decode(BPETokenizer.train([], 257).encode("今")[:2]) == "\ufffd"


def test_bad_input(bpe, every):
    for tok in every:
        with pytest.raises(ValueError, match="character 2 is '.udc80'"): tok.encode("ab\udc80")
        with pytest.raises(ValueError, match="character 2 is"): tok.encode_batch(["ok", "ab\ud800"])
        with pytest.raises(TypeError, match="expected text"): tok.encode(b"bytes")
        with pytest.raises(TypeError, match="iterable of texts"): tok.encode_batch("one text")
        for i in (-1, tok.vocab_size):
            with pytest.raises(ValueError, match="outside the vocabulary: ids go from 0 to"):
                tok.decode([i])
            with pytest.raises(ValueError, match="outside the vocabulary"): tok.token_bytes(i)
        size = {} if isinstance(tok, CharTokenizer) else {"vocab_size": 300}
        with pytest.raises(TypeError, match="iterable of texts"):
            type(tok).train("one text", **size)
    with pytest.raises(ValueError, match=r"character 1, '今' \(U\+4ECA\)"):
        CharTokenizer.train(["ab"]).encode("a今")
    with pytest.raises(ValueError, match="already need 257"): BPETokenizer.train(["a"], 256)
    with pytest.raises(ValueError, match="no room"): WordTokenizer.train(["a"], 1)
    with pytest.raises(ValueError, match="plain tokens too"): CharTokenizer.train(["a#"], ["#"])
    with pytest.raises(ValueError, match="plain tokens too"): BPETokenizer.train(["a#"], 300, ["#"])
    with pytest.raises(ValueError, match="plain tokens too"):
        WordTokenizer.train(["a#"], 300, ["#"])
    with pytest.raises(TypeError, match="list of names"): CharTokenizer.train(["a"], END)
    with pytest.raises(ValueError, match="no end token"): CharTokenizer.train(["a"], []).end_id
    with pytest.raises(ValueError, match="no regular expression"):
        BPETokenizer.train(["a"], 300, split="(")
    by_flags = ["(?m:^a)", "a(?i)b", "(?x: a)"]
    for odd in [*by_flags, r"a\Kb", "[a-z&&[^aeiou]]+", r"\h+", r"(a)\1", r"[\h]"]:
        with pytest.raises(ValueError, match="not all libraries read alike"):
            BPETokenizer.train(["a"], 300, split=odd)


# files

@pytest.mark.parametrize("which", range(4))
def test_saved_folder_opens_everywhere(every, tmp_path, which):
    tok = every[which]
    tok.save(tmp_path / "run")
    assert sorted(os.listdir(tmp_path / "run")) == ["tokenizer.json", "tokenizer_config.json"]
    ours = load_tokenizer(tmp_path / "run")
    raw = Engine.from_file(str(tmp_path / "run/tokenizer.json"))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "run")
    assert type(ours) is type(tok) and ours.spec == tok.spec and ours.config == tok.config
    assert raw.get_vocab_size() == len(theirs) == tok.vocab_size
    assert theirs.eos_token_id == theirs.bos_token_id == theirs.pad_token_id == tok.end_id
    for text in CHINESE + ENGLISH[:2] + [f"one{END}two"] + (HARD if which < 2 else []):
        ids = tok.encode(text, allowed_special={END})
        assert ours.encode(text, allowed_special={END}) == ids
        assert raw.encode(text).ids == theirs(text).input_ids == ids
        assert tok.decode(ids) == raw.decode(ids, skip_special_tokens=False) == theirs.decode(ids)


def test_saving_again_replaces_and_a_failure_leaves_the_old(bpe, tmp_path, monkeypatch):
    def fail(*names): raise OSError("no space left")
    CharTokenizer.train(["ab"]).save(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError): bpe.save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == before and len(os.listdir(tmp_path)) == 2
    monkeypatch.undo()
    bpe.save(str(tmp_path))
    assert load_tokenizer(str(tmp_path)).spec == bpe.spec


def test_travels_to_other_processes(every):
    for tok in every:
        tok.encode_batch(["Hello"] if tok is not every[3] else ["今"])
        assert pickle.loads(pickle.dumps(tok)).encode_batch(CHINESE) == tok.encode_batch(CHINESE)


# one way to cut

CL100K = "|".join([
    r"'(?i:[sdmt]|ll|ve|re)",
    r"[^\r\n\p{L}\p{N}]?+\p{L}++",
    r"\p{N}{1,3}+",
    r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
    r"\s++$",
    r"\s*[\r\n]",
    r"\s+(?!\S)",
    r"\s"])
BEFORE, AFTER = r"[^\r\n\p{L}\p{N}]?", "(?i:'s|'t|'re|'ve|'m|'ll|'d)"   # around a word's letters
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = "|".join([
    f"{BEFORE}{UPPER}*{LOWER}+{AFTER}?",
    f"{BEFORE}{UPPER}+{LOWER}*{AFTER}?",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+"])
PATTERNS = {
    "cl100k": CL100K,
    "o200k": O200K,
    "gpt2": GPT2_SPLIT,
    "gpt4": GPT4_SPLIT,
    "lazy": r"\p{N}{3}?|\S+|\s+",
    "possessive": r"\p{L}{1,2}+|[\s\S]",
    "group": "(?:ab){1,2}+b|[^x]|x"}


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_patterns_give_the_ids_of_tiktoken(pattern, tmp_path):
    """Possessive counts, lazy ones and ends of text are written for `tokenizers`, in training and
    in the saved file."""
    import tiktoken
    tok = BPETokenizer.train(ENGLISH + CHINESE + ["1234567 89", "ababab"] * 3, 900, split=pattern)
    theirs = tiktoken.Encoding(
        "own", pat_str=pattern, mergeable_ranks=tok.ids, special_tokens=tok.special_tokens)
    tok.save(tmp_path)
    opened, raw = load_tokenizer(tmp_path), Engine.from_file(str(tmp_path / "tokenizer.json"))
    spaces = ["  \n\n", "a  \n b\n", "\t x "]
    words = ["1234567", "HELLO's I'LL camelCase", "e\u0301a", "abababb"]
    for text in [*HARD, *CHINESE, *ENGLISH[:4], *spaces, *words]:
        want = theirs.encode(text, disallowed_special=())
        assert tok.encode(text) == tok.encode_batch([text])[0] == opened.encode(text) == want, text
        want = theirs.encode(text, allowed_special="all")
        assert tok.encode(text, "all") == raw.encode(text).ids == want


def test_new_letters_are_cut_alike(every):
    "Letters of the latest Unicode, which libraries of different age class differently."
    block = "".join(chr(i) for i in range(0x11D00, 0x11E00))
    for text in ("\u0ec8\u0eba", " \U00011de0", "a\U00011de0 1\u0c5c\u0cdc", block):
        for tok in every[:2]:
            want = Engine.from_str(json.dumps(tok.spec)).encode(text).ids
            assert [tok.encode(text)] == tok.encode_batch([text]) == [want]
        words = WordTokenizer.train([text], 500)
        assert words.encode(text) == Engine.from_str(json.dumps(words.spec)).encode(text).ids


def split_at(regex, behavior="Isolated", invert=False):
    "A step of a pre_tokenizer, as a tokenizer.json has it."
    return dict(type="Split", pattern=dict(Regex=regex), behavior=behavior, invert=invert)


SPLITS = [GPT4_SPLIT, CL100K, r"\p{N}{1,3}+", r"\d{3}?", "^a|b$", "(?m:a.b)", "a(?i)b", r"a\Kb",
          "[a-z&&[^aeiou]]+", "(a)|b", "x++", "(?:" * 900 + "a" + ")" * 900]
OTHERS = [
    dict(type="Digits", individual_digits=True),
    dict(type="Digits", individual_digits=False),
    dict(type="Split", pattern=dict(String="a "), behavior="MergedWithPrevious", invert=False),
    split_at(GPT4_SPLIT, "Removed", invert=True),
    split_at(r"\s", "Removed"),
    split_at(r"\p{L}+", "Contiguous", invert=True)]
STEP = st.one_of(st.sampled_from(SPLITS).map(split_at), st.sampled_from(OTHERS))
STEPS = st.lists(STEP, max_size=2)
NORMALIZERS = [None,
               dict(type="NFC"),
               dict(type="Sequence", normalizers=[]),
               dict(type="Sequence", normalizers=[dict(type="NFC")])]
NAMES = ["caf\u00e9", "cafe\u0301", "<|x|>", "the", " a", "1", "x|>", "\u0301", "e\u0301a"]
A_TOKEN = st.tuples(st.sampled_from(NAMES), st.booleans(), st.booleans())
ADDED = st.lists(A_TOKEN, max_size=4, unique_by=lambda t: t[0])
WRITTEN = [*NAMES, *HARD, "e", "\u0301", "cafe", "<|", "|>", END, "\u0ec8\u0eba"]
SAID = st.lists(st.one_of(st.sampled_from(WRITTEN), st.text(max_size=4)), max_size=8).map("".join)


@settings(max_examples=400, deadline=None)
@given(STEPS, ADDED, st.sampled_from(NORMALIZERS), st.booleans(), st.booleans(), SAID)
def test_every_file_that_opens_gives_the_ids_of_its_library(
        bpe, steps, added, normalizer, use_regex, whole_first, text):
    spec = json.loads(json.dumps(bpe.spec))
    flags = dict(single_word=False, lstrip=False, rstrip=False)
    for i, (name, special, normalized) in enumerate(added, 1000):
        token = dict(id=i, content=name, special=special, normalized=normalized, **flags)
        spec["added_tokens"].append(token)
    byte_level = spec["pre_tokenizer"]["pretokenizers"][-1] | dict(use_regex=use_regex)
    spec["pre_tokenizer"]["pretokenizers"] = [*steps, byte_level]
    spec["normalizer"], spec["model"]["ignore_merges"] = normalizer, whole_first
    try: tok = open_spec(spec, {})
    except ValueError: return
    raw = Engine.from_str(json.dumps(spec))
    assert tok.encode(text, allowed_special="all") == raw.encode(text, add_special_tokens=False).ids
    raw.encode_special_tokens = True
    want = raw.encode(text, add_special_tokens=False).ids
    assert tok.encode(text) == tok.encode_batch([text])[0] == list(tok.encode_iter([text])) == want


def test_what_is_equal_is_opened_and_what_loses_text_is_not(bpe):
    def spec_of(*steps, **parts):
        byte_level = bpe.spec["pre_tokenizer"]["pretokenizers"][-1]
        cuts = dict(type="Sequence", pretokenizers=[*steps, byte_level])
        return bpe.spec | dict(pre_tokenizer=cuts) | parts
    removes = split_at(GPT4_SPLIT, "Removed", invert=True)
    does_nothing = dict(type="Sequence", normalizers=[])
    for spec in (spec_of(removes), bpe.spec | dict(normalizer=does_nothing)):
        tok = open_spec(spec, {})
        assert tok.splits == (GPT4_SPLIT,)
        for text in HARD + ENGLISH: assert tok.encode(text) == bpe.encode(text)
    with pytest.raises(ValueError, match="drops what stands between"):
        open_spec(spec_of(removes | dict(invert=False)), {})
    with pytest.raises(ValueError, match="drops what stands between"):
        open_spec(spec_of(removes | dict(pattern=dict(Regex=r"\p{L}+"))), {})


def test_normalized_added_tokens_are_found_in_the_normalised_text(bpe):
    spec = json.loads(json.dumps(bpe.spec)) | dict(normalizer=dict(type="NFC"))
    cafe = dict(id=1000, content="caf\u00e9", special=False, normalized=True)
    spec["added_tokens"].append(spec["added_tokens"][0] | cafe)
    tok = open_spec(spec, {})
    assert tok.encode("caf\u00e9") == tok.encode("cafe\u0301") == [1000]
    assert tok.encode_batch(["cafe\u0301"])[0] == [1000]


@pytest.mark.parametrize("split", [GPT2_SPLIT, GPT4_SPLIT, r"\s+|\S+", r"\S+\s*|\s+"])
def test_long_texts_are_cut_where_a_pre_token_ends(split):
    from gpt_nb.tokenizer import cut_long
    tok = BPETokenizer.train(ENGLISH[:3], 500, split=split)
    rng = random.Random(0)
    pieces = ["word", " ", "\n", "\n\n", "  x", "12345", ".\n", "今天，", "\t"]
    text = "".join(rng.choice(pieces) for _ in range(3000))
    parts = cut_long(text, tok, longest=300, around=50)
    assert "".join(parts) == text and len(parts) > 20
    assert [i for part in parts for i in tok.encode(part)] == tok.encode(text)
    assert tok.encode_batch([text * 9, "x"])[0] == tok.encode(text * 9)


def test_bulk_goes_in_groups(bpe):
    from gpt_nb.tokenizer import encode_in_bulk, in_library, in_threads
    texts = [*ENGLISH, "", *CHINESE]
    want = [encode_by_hand(bpe, t) for t in texts]
    for in_bulk in (in_library, in_threads):
        for size in (1, 500, 10**9): assert list(in_bulk(bpe, texts, at_once=size)) == want
    strange = [*texts, "ab \U00011de0 \u0c5c", " " * 300_000 + "a", "x"]
    assert encode_in_bulk(bpe, strange, few=0)[:len(want)] == want
    assert list(map(bpe.decode, encode_in_bulk(bpe, iter(strange), few=0))) == strange
    assert encode_in_bulk(bpe, [], few=0) == []


# what is fast gives the same

def test_known_patterns_are_cut_alike_by_every_way():
    from gpt_nb.tokenizer import KNOWN_SPLITS, UNCOMMON, cut, cutter, for_tokenizers, quick_pattern
    every = [chr(i) for i in (*range(0xD800), *range(0xE000, 0x20000))]
    common = [c for c in every if not UNCOMMON.search(c)]
    text = "".join(f"{c}a{c} {c}1{c}\n'{c}.{c}" for c in common)
    assert len(common) > 30_000
    for split in KNOWN_SPLITS:
        assert for_tokenizers(split) == split
        found = quick_pattern(split).findall(text)
        assert found == cut(text, cutter(split)) == regex.findall(split, text)


SPLIT = st.sampled_from([GPT2_SPLIT, GPT4_SPLIT, GPT4_SPLIT.replace("{1,3}", "")])


@settings(max_examples=300, deadline=None)
@given(SPLIT, TEXT, st.integers(1, 9))
def test_long_texts_are_counted_in_stretches(split, text, longest):
    from gpt_nb.tokenizer import cut, cutter, same_everywhere, quick_pattern, stretches
    parts = list(stretches(text, split, longest))
    assert "".join(parts) == text
    assert [p for part in parts for p in cut(part, cutter(split))] == cut(text, cutter(split))
    if same_everywhere(text): assert quick_pattern(split).findall(text) == cut(text, cutter(split))


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXT, max_size=6), SPLIT, st.integers(0, 60))
def test_a_trained_tokenizer_is_the_same_in_tiktoken(texts, split, n_merges):
    tok = BPETokenizer.train(texts * 2, 257 + n_merges, split=split)
    tok.read = 10**9
    assert tok.fast is not None
    for text in texts: assert tok.encode(text) == encode_by_hand(tok, text)


def naive_pairs(data, ids):
    "The pairs of tokens that a token may be made of."
    return [(ids[data[:i]], ids[data[i:]]) for i in range(1, len(data))
            if data[:i] in ids and data[i:] in ids]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("abc", min_size=2, max_size=4), max_size=12, unique=True),
       st.randoms(use_true_random=False), st.booleans(), st.text("abc", max_size=30))
def test_merges_of_any_kind_are_the_same_or_refused(names, rng, whole_first, text):
    "Merges no training gives: a token made in two ways, in another order than its id, or never."
    ids = {bytes([b]): b for b in range(256)}
    ids |= {name.encode(): 256 + k for k, name in enumerate(names)}
    merges = [pair for data in ids for pair in naive_pairs(data, ids)]
    rng.shuffle(merges)
    if rng.random() < 0.5: merges.sort(key=lambda pair: ids[as_bytes(pair, ids)])
    tok = BPETokenizer(merges[:rng.randint(0, len(merges))], tokens=ids)
    tok.whole_first, tok.read = whole_first, 10**9
    assert tok.encode(text) == encode_by_hand(tok, text)


def as_bytes(pair, ids):
    "The bytes of two tokens."
    names = {i: data for data, i in ids.items()}
    return names[pair[0]] + names[pair[1]]


def test_counting_in_processes_is_the_same(tmp_path):
    """Also from a script without a guard for its main part, from a stream, and one long text."""
    from gpt_nb.tokenizer import count_in_parallel, count_pieces
    texts = [*ENGLISH, *CHINESE, "\U00011de0 \u0c5c", "a" * 3000, ""]
    for split in (GPT4_SPLIT, r"\S+|\s+"):
        want = count_pieces(texts, split)
        assert count_in_parallel(iter(texts), split, few=0, at_once=10_000) == want
    joined = " ".join(ENGLISH)
    want = count_pieces([joined], GPT4_SPLIT)
    assert count_in_parallel([joined], GPT4_SPLIT, few=0, at_once=1000) == want
    script = tmp_path / "train.py"
    script.write_text("from gpt_nb.tokenizer import count_in_parallel, GPT4_SPLIT\n"
                      "print(sorted(count_in_parallel(['a b', 'a'], GPT4_SPLIT, few=0).items()))")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "[(b' b', 1), (b'a', 2)]", done.stderr


def test_a_stream_that_breaks_ends_the_processes():
    from gpt_nb.tokenizer import count_in_parallel
    def broken():
        yield from ENGLISH
        raise OSError("the disk is gone")
    with pytest.raises(OSError, match="the disk is gone"):
        count_in_parallel(broken(), GPT4_SPLIT, few=0, at_once=1000)


def test_little_text_starts_no_process(monkeypatch):
    from gpt_nb import tokenizer
    def never(*args): raise AssertionError("a process was started")
    monkeypatch.setattr(tokenizer, "start_counting", never)
    BPETokenizer.train(ENGLISH, 300)
    with pytest.raises(AssertionError, match="was started"):
        tokenizer.count_in_parallel(ENGLISH, GPT4_SPLIT, few=0)


# small things others have

def test_skipping_many_and_by_name(every):
    bpe, chars = every[0], every[2]
    ids = bpe.encode(f"the{END}cat", "all")
    assert bpe.decode(ids) == f"the{END}cat"
    assert bpe.decode(ids, skip_special_tokens=True) == "thecat"
    assert bpe.decode_batch([ids, [97]], skip_special_tokens=True) == ["thecat", "a"]
    assert bpe.decode_batch([ids]) == [f"the{END}cat"]
    assert bpe.token_to_id(END) == bpe.end_id
    assert bpe.token_to_id("a") == 97
    assert bpe.token_to_id(b"\xe4") == 0xE4
    assert bpe.token_to_id("nothing like it") is None
    assert all(bpe.token_to_id(bpe.token_bytes(i)) == i for i in range(bpe.vocab_size - 1))
    assert chars.token_to_id("今") == chars.encode("今")[0]
    assert bpe.shown_bytes(97) == b"a"
    assert bpe.shown_bytes(bpe.vocab_size) == bpe.shown_bytes(10**6) == b""


def test_a_special_token_that_is_not_allowed_is_an_error_on_request(bpe):
    assert bpe.encode("no such", disallowed_special="all") == bpe.encode("no such")
    assert bpe.encode(f"a{END}", allowed_special="all", disallowed_special="all")[-1] == bpe.end_id
    for names in ("all", [END]):
        with pytest.raises(ValueError, match=r"character 1 begins the special token '<.end.>'"):
            bpe.encode(f"a{END}", disallowed_special=names)
    with pytest.raises(ValueError, match="no special tokens"):
        bpe.encode("x", disallowed_special=["<|nope|>"])


def test_encode_iter_needs_no_list(bpe):
    def endless():
        while True: yield "Once upon a time"
    ids, once = bpe.encode_iter(endless()), bpe.encode("Once upon a time")
    assert [next(ids) for _ in range(3 * len(once))] == 3 * once
    with pytest.raises(TypeError, match="iterable of texts"): next(bpe.encode_iter("one text"))


@pytest.mark.parametrize("names, eos, want", [
    # gpt-oss
    (["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|call|>", "<|end|>"],
     "<|return|>", "<|endoftext|>"),
    # Qwen's chat models
    (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>", "<|endoftext|>"),
    # Llama 3's
    (["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], "<|eot_id|>", "<|end_of_text|>"),
    # ours
    (["<|end|>", "<|user|>"], "<|end|>", "<|end|>"),
    (["<|end|>", "<|endoftext|>"], "<|end|>", "<|end|>"),
    # others
    (["<s>", "</s>", "<|im_end|>"], "</s>", "</s>"),
    (["<|im_end|>"], None, "<|im_end|>")])
def test_the_end_is_that_of_a_document_not_of_a_message(tmp_path, names, eos, want):
    spec = BPETokenizer.train([], 256 + len(names), names).spec
    config = {"eos_token": eos} if eos else None
    tok = load_tokenizer(write(tmp_path, spec, config))
    assert tok.end_id == tok.special_tokens[want]


# tokenizers of others, made on the spot

LLAMA3_SPLIT = "|".join([
    AFTER,
    BEFORE + r"\p{L}+",
    r"\p{N}{1,3}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+"])


def foreign_cut(kind):
    "How text is cut before its pairs are merged."
    by_gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind == "gpt2": return by_gpt2
    if kind == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), by_gpt2])
    pattern = LLAMA3_SPLIT if kind == "llama3" else LLAMA3_SPLIT.replace("{1,3}", "")
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def foreign(kind):
    "A small tokenizer with the parts of GPT-2, Llama 3, Qwen or SmolLM."
    engine = Engine(models.BPE())
    engine.pre_tokenizer = foreign_cut(kind)
    engine.decoder = decoders.ByteLevel()
    first = ["<|endoftext|>"] if kind in ("gpt2", "smollm") else []
    trainer = trainers.BpeTrainer(
        vocab_size=700, show_progress=False, special_tokens=first,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    engine.train_from_iterator(ENGLISH + CHINESE, trainer)
    if kind == "llama3":
        begin = "<|begin_of_text|>"
        engine.add_special_tokens([begin, "<|end_of_text|>", "<|eot_id|>"])
        engine.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, engine.token_to_id(begin))])
    if kind == "qwen":
        engine.normalizer = normalizers.NFC()
        engine.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        engine.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    spec = json.loads(engine.to_str())
    if kind == "gpt2": spec["model"]["merges"] = [" ".join(m) for m in spec["model"]["merges"]]
    if kind == "llama3": spec["model"]["ignore_merges"] = True
    return spec


def write(folder, spec, config=None):
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    if config: (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "qwen", "smollm"])
def test_opens_theirs(tmp_path, kind):
    spec = foreign(kind)
    tok, engine = load_tokenizer(write(tmp_path, spec)), Engine.from_str(json.dumps(spec))
    assert tok.vocab_size == engine.get_vocab_size()
    more = ["e\u0301a <tool_call>\n{}", "١٢٣ 1234567 ½", "the" * 40]
    for text in HARD + CHINESE + ENGLISH + more:
        theirs = engine.encode(text, add_special_tokens=False).ids
        assert tok.encode(text, allowed_special=tok.special_tokens) == theirs, text
        assert tok.decode(theirs) == engine.decode(theirs, skip_special_tokens=False)
        assert tok.encode_batch([text]) == [tok.encode(text)]
        assert not set(tok.encode(text)) & set(tok.special_tokens.values())
    name = {"llama3": "<|end_of_text|>"}.get(kind, "<|endoftext|>")
    assert tok.end_id == engine.token_to_id(name)
    (tmp_path / "again").mkdir()
    tok.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").spec == spec


def test_whole_tokens_first_where_the_file_says_so(tmp_path):
    spec = BPETokenizer.train(["low lower lowest slow"] * 9, 280).spec
    del spec["model"]["merges"][0]   # now some tokens cannot be reached by merges
    for ignore in (False, True):
        spec["model"]["ignore_merges"] = ignore
        tok, engine = load_tokenizer(write(tmp_path, spec)), Engine.from_str(json.dumps(spec))
        for text in ("low", " low", "lowest slow lower"):
            assert tok.encode(text) == engine.encode(text).ids


def test_end_token_named_in_the_config(tmp_path):
    spec = BPETokenizer.train([], 258, ["</s>", "<s>"]).spec
    for eos in ("</s>", {"__type": "AddedToken", "content": "</s>"}):
        assert load_tokenizer(write(tmp_path, spec, {"eos_token": eos})).end_id == 256


def broken_specs():
    good = BPETokenizer.train(["abab abab"], 260).spec
    def change(**parts): return json.dumps({**json.loads(json.dumps(good)), **parts})
    def model(**parts): return change(model={**good["model"], **parts})
    yield "", "no JSON"
    yield json.dumps(good)[:-9], "no JSON"
    yield "[" * 100_000, "no JSON"
    yield "[1, 2]", "not an object"
    def split(pattern):
        steps = [split_at(pattern), good["pre_tokenizer"]["pretokenizers"][1]]
        return change(pre_tokenizer={"type": "Sequence", "pretokenizers": steps})
    yield "{}", "model is None"
    yield change(model=None), "model is None"
    yield model(vocab=None), "model.vocab is None"
    yield model(vocab={"a": [1]}), "no token id"
    yield model(merges={}), "model.merges is {}"
    yield model(merges=["a b c"]), "model.merges[0] is 'a b c'"
    yield model(merges=[["a", "b", "ab"]]), "model.merges[0]"
    yield model(merges=[5]), "model.merges[0] is 5"
    yield change(added_tokens={}), "added_tokens is {}"
    yield change(added_tokens=[5]), "one of added_tokens is 5"
    yield change(pre_tokenizer=[]), "pre_tokenizer is []"
    uncut = {k: v for k, v in good.items() if k != "pre_tokenizer"}
    yield json.dumps(uncut), "pre_tokenizer is None"
    yield change(added_tokens=[{**good["added_tokens"][0], "id": 400}]), "gives it"
    yield split("a{1000000000}"), "multiply to more than 1000"
    yield split("(?:a{100}){,100}"), "multiply to more than 1000"
    yield split("(?:" * 3000 + "a" + ")" * 3000), "at most 4000"
    yield split("("), "no regular expression"
    yield change(model={"type": "WordPiece", "vocab": {}}), "its model is WordPiece"
    yield change(model={"type": "Unigram", "vocab": []}), "its model is Unigram"
    yield model(merges=["a"]), "cannot open"
    yield model(merges=[["a", "zz"]]), "model.merges[0]"
    yield model(vocab={"▁the": 0}), "not made of bytes"
    yield model(vocab={**good["model"]["vocab"], "zz": "7"}), "no token id"
    yield model(vocab={**good["model"]["vocab"], "zz": -7}), "no token id"
    yield model(vocab={**good["model"]["vocab"], "zz": 7}), "share an id"
    yield change(added_tokens=[{**good["added_tokens"][0], "id": 7}]), "share an id"
    yield model(end_of_word_suffix="</w>"), "end_of_word_suffix"
    yield model(byte_fallback=True), "byte_fallback"
    yield change(normalizer={"type": "Lowercase"}), "normalises"
    prefixed = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}
    yield change(pre_tokenizer=prefixed), "prefix"
    yield change(pre_tokenizer={"type": "Metaspace"}), "its text is cut by"
    yield change(pre_tokenizer={"type": "Sequence", "pretokenizers": []}), "pre_tokenizer is"
    yield change(pre_tokenizer=None), "pre_tokenizer is None"
    yield change(added_tokens=[{"id": 256, "content": END}]), "one of added_tokens"
    yield change(added_tokens=[{**good["added_tokens"][0], "lstrip": True}]), "not supported"
    yield change(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}), "way of its own"


def short_name(text): return text[:12] if len(text) < 30 else "file"


@pytest.mark.parametrize("content,message", broken_specs(), ids=short_name)
def test_malformed_files(tmp_path, content, message):
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="tokenizer.json") as error: load_tokenizer(tmp_path)
    assert message in str(error.value) and len(str(error.value)) < 500 + len(str(tmp_path))


def test_an_added_token_within_a_special_one(tmp_path):
    """Where a special token is plain text, so are the tokens within it and over its end, in both
    engines."""
    spec = BPETokenizer.train(["abab abab"], 260).spec
    end = spec["added_tokens"][0]
    for i, name in enumerate(("<|end", "|>a"), end["id"] + 1):
        spec["added_tokens"].append({**end, "id": i, "content": name, "special": False})
    tok, raw = load_tokenizer(write(tmp_path, spec)), Engine.from_str(json.dumps(spec))
    for text in ("a<|end|>b", "<|end|>ab", "<|endx|>ab", "<|end<|end|>|>a"):
        assert tok.encode(text) == tok.encode_batch([text])[0]
        assert tok.decode(tok.encode(text)) == text
        assert tok.encode(text, allowed_special={END}) == raw.encode(text).ids


@pytest.mark.parametrize("part", ["decoder", "post_processor", "normalizer", "pre_tokenizer"])
def test_unknown_parts(tmp_path, part):
    spec = {**BPETokenizer.train(["abab abab"], 260).spec, part: {"type": "Nope"}}
    with pytest.raises(ValueError, match="tokenizer.json"):
        load_tokenizer(write(tmp_path, spec)).encode_batch(["ab"])


def test_missing_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="no tokenizer.json"): load_tokenizer(tmp_path)
    for name in ("../nowhere", "/nowhere/at/all", "a/b/c", "..", "a/..", "./x"):
        with pytest.raises(FileNotFoundError):
            load_tokenizer(tmp_path / name if name == "../nowhere" else name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="no folder nobody/nothing"):
        load_tokenizer("nobody/nothing")
