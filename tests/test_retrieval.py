"Searches that must be right: BM25 against bm25s, odd queries, Chinese, vectors, files."
import gzip
import json
import math
from types import SimpleNamespace

import bm25s
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.evaluation import embed
from gpt_nb.model import GPT
from gpt_nb.retrieval import (TextEncoder, FusedShelf, Shelf, VectorShelf, asked, bm25, clause,
                              cut_to_fit, info_nce, passages, perfect, recall, shelf_of, terms,
                              train_encoder, why)
from gpt_nb.tales import Tales

WORDS = st.lists(st.sampled_from("a b c d e f".split()), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=12), WORDS, st.floats(0.1, 4), st.floats(0, 1))
def test_bm25_is_that_of_bm25s(documents, query, k1, b):
    index = bm25s.BM25(k1=k1, b=b, method="lucene")
    index.index(documents, show_progress=False)
    known = [word for word in query if any(word in document for document in documents)]
    theirs = index.get_scores(known) if known else np.zeros(len(documents))
    assert np.allclose(bm25(query, documents, k1, b), theirs, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab c王后。\n", max_size=20), max_size=8), st.text("abc王后 ", max_size=8),
       st.integers(1, 12))
def test_a_search_is_the_sorted_scores(texts, query, k):
    shelf = Shelf(texts)
    found, scores = shelf.search(query, k), shelf.scores(query)
    assert len(scores) == len(texts) and len(found) == min(k, int((scores > 0).sum()))
    assert found == sorted(found, key=lambda pair: (-pair[1], pair[0]))
    for i, score in found: assert set(terms(query)) & set(terms(texts[i])) and score == scores[i]


def test_scores_are_those_of_bm25_and_the_sum_of_what_decided():
    texts = [Tales().sample(seed).text for seed in range(30)]
    shelf, query = Shelf(texts), "the kind queen Mia and the the boy"
    ours = bm25(terms(query), [terms(text) for text in texts], k1=0.5)
    assert np.allclose(shelf.scores(query), ours, atol=1e-5)
    for i in range(5):
        assert math.isclose(sum(why(shelf, query, i).values()), ours[i], abs_tol=1e-4)


def test_odd_queries_and_odd_shelves():
    for empty in (Shelf([]), Shelf(["", "。", " \n"])):
        assert empty.search("a") == [] and empty.search("") == [] and why(empty, "a", 0) == {}
    shelf = Shelf(["the kite", "the kite", "a drum"])
    assert shelf.search("") == [] and shelf.search("zebra") == [] and shelf.search("?!") == []
    assert [i for i, _ in shelf.search("kite", 10)] == [0, 1]
    assert shelf.search("KITE") == shelf.search("kite") == shelf.search("ｋｉｔｅ")
    assert shelf.sources == ["text 1", "text 2", "text 3"] and len(shelf) == 3
    giant = Shelf(["word " * 200_000 + "needle", "a needle"])
    assert [i for i, _ in giant.search("needle")] == [1, 0]


def test_what_is_no_shelf_and_no_query():
    with pytest.raises(TypeError, match="one string"): Shelf("a text")
    with pytest.raises(TypeError, match="one string"): Shelf(["a", "b"], sources="xy")
    for k1 in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="k1=.*at least 0"): Shelf(["a"], k1=k1)
    with pytest.raises(TypeError, match="query is int"): why(Shelf(["a"]), 3, 0)
    with pytest.raises(TypeError, match="FusedShelf does not search by words alone"):
        why(FusedShelf([Shelf(["a"])]), "a", 0)
    with pytest.raises(TypeError, match=r"texts\[1\] is int"): Shelf(["a", 3])
    with pytest.raises(ValueError, match="1 sources for 2 texts"): Shelf(["a", "b"], sources=["x"])
    with pytest.raises(TypeError, match="query is list"): Shelf(["a"]).search(["a"])
    for k in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="at least 1"): Shelf(["a"]).search("a", k)


def test_terms_in_several_scripts():
    assert terms("Tom's Kite, 3 kites!") == ["tom", "s", "kite", "3", "kites"]
    assert terms("风筝") == ["风", "筝", "风筝"] and terms("GPT模型") == ["gpt", "模", "型", "模型"]
    assert terms("ひらカナ")[-1] == "カナ" and terms("naïve Straße") == ["naïve", "strasse"]
    assert terms("") == terms("。 ，") == []
    assert "ター" in terms("コンピューター") and "人々" in terms("人々")
    assert "ไท" in terms("ไทย") and terms("한국어 책") == ["한국어", "책"]


def test_texts_and_queries_without_terms():
    assert bm25(["a"], []).tolist() == [] and bm25(["a"], [[], []]).tolist() == [0, 0]
    with np.errstate(all="raise"):   # a term counts fully, its absence nothing
        scores = bm25(["a"], [["a", "a"], ["b"], []], k1=0)
    assert np.allclose(scores, [math.log(1 + 2.5 / 1.5), 0, 0])
    texts, query = ["a  b", "", "c", "a"], "a  z "   # cut at each space: "" is no term
    shelf = Shelf(texts, lambda text: text.split(" "))
    wanted = bm25(["a", "z"], [text.split() for text in texts], k1=0.5)
    assert np.allclose(shelf.scores(query), wanted)
    assert shelf.search("") == shelf.search("zz ") == []
    assert shelf.search("a", np.int64(1)) == [(3, pytest.approx(wanted[3]))]


def test_chinese_is_found_where_the_default_finds_nothing():
    stories = [Tales("zh").sample(seed) for seed in range(300)]
    pairs = [(asked(stories[i], "zh")[0], i) for i in range(0, 300, 10)]
    def default(text): return bm25s.tokenize([text], return_ids=False, show_progress=False)[0]

    texts = [story.text for story in stories]
    assert recall(Shelf(texts), pairs)[5] == 1 and recall(Shelf(texts, default), pairs)[20] == 0


def test_the_clause_says_which_story():
    story = Tales().sample(3)
    assert clause(story) == "In the story of the lonely king Leo and the princess Clara: "
    assert asked(story, "zh")[0] == "在孤独的国王里奥和公主克拉拉的故事里：最后硬币在谁手里？"
    reworded = asked(story, "en", other=True)
    assert all(question.startswith("In the story of the solitary monarch Leo and the royal "
                                   "daughter Clara: ") for question in reworded)
    assert len(reworded) == len(story.questions)
    with pytest.raises(ValueError, match="lang='fr'"): asked(story, "fr")


def test_nobody_can_tell_twins_apart():
    one, two = Tales().sample(3), Tales().sample(4)
    assert perfect([one, two], [0], 1) == 1
    assert perfect([one, one, two], [0], 1) == 0.5 and perfect([one, one, two], [0], 2) == 1
    shelf = Shelf([one.text, two.text])
    pairs = [(asked(one, "en")[0], 0), (asked(one, "en")[0], 1), ("zebra", 0)]
    assert recall(shelf, pairs) == {1: 1 / 3, 5: 2 / 3, 20: 2 / 3}
    with pytest.raises(ValueError, match="pairs is empty"): recall(shelf, [])
    with pytest.raises(ValueError, match="places is empty"): perfect([one], [], 1)


def test_info_nce_is_cross_entropy_both_ways():
    torch.manual_seed(0)
    q, t = (torch.nn.functional.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    table = (q @ t.T / 0.2).double().numpy()
    def loss(m): return np.mean([np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(m)])

    assert math.isclose(info_nce(q, t, 0.2).item(), (loss(table) + loss(table.T)) / 2, rel_tol=1e-5)
    assert info_nce(q, q, 0.01) < info_nce(q, q.roll(1, 0), 0.01)
    assert info_nce(q.to("meta"), t.to("meta")).device.type == "meta"   # wherever the vectors are


@pytest.fixture(scope="module")
def encoder():
    body = GPT.from_pretrained("tales-short", dtype=torch.float32)
    stories = [Tales().sample(100_000_000 + seed) for seed in range(300)]
    pairs = [(asked(story, "en")[0], story.translation) for story in stories]
    torch.manual_seed(0)
    return TextEncoder(body, load_tokenizer("tales-short"), pairs)


def test_training_by_contrast_finds_the_other_language(encoder):
    before = [p.clone() for p in encoder.body.parameters()]
    losses = train_encoder(encoder, steps=120, batch_size=128)
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(a, b) for a, b in zip(before, encoder.body.parameters()))
    stories = [Tales().sample(seed) for seed in range(100)]
    shelf = VectorShelf([story.translation for story in stories], encoder)
    pairs = [(asked(story, "en")[0], i) for i, story in enumerate(stories)]
    assert recall(shelf, pairs)[20] > 0.5                       # chance: 0.2
    assert shelf.search("") == [] and len(shelf.search("Mia", 1000)) <= 100
    assert torch.allclose(encoder.texts(["Mia"]).norm(dim=-1), torch.ones(1))
    assert VectorShelf([], encoder).search("Mia") == []


def test_several_layers_stand_side_by_side(encoder):
    body, tok, texts = encoder.body, encoder.tok, ["The kite.", "米娅", ""]
    both = torch.cat([embed(body, tok, texts, layer) for layer in (1, -1)], -1)
    assert torch.equal(embed(body, tok, texts, [1, -1]), both) and not both[2].any()


def fixed(vectors):
    "A stand-in for an encoder."
    return SimpleNamespace(texts=lambda texts: torch.tensor([vectors[text] for text in texts]),
                           queries=lambda texts: torch.tensor([vectors[text] for text in texts]))


def test_ranks_are_fused():
    vectors = {"a b": [1.0, 0.0], "a": [0.6, 0.8], "c": [0.8, 0.6]}
    shelf = Shelf(["a b", "a", "c"])
    by_vectors = VectorShelf(shelf.texts, fixed(vectors | {"a": [0.6, 0.8]}))
    fused = FusedShelf([shelf, by_vectors])
    ranks = [[i for i, _ in one.search("a")] for one in (shelf, by_vectors)]
    assert ranks == [[1, 0], [1, 2, 0]]
    wanted = {1: 2 / 61, 0: 1 / 62 + 1 / 63, 2: 1 / 62}
    assert {i: round(s, 9) for i, s in fused.search("a")} == {i: round(s, 9)
                                                              for i, s in wanted.items()}


def test_only_searches_of_the_same_texts_are_fused():
    with pytest.raises(ValueError, match="no shelf"): FusedShelf([])
    for other in (["c"], ["c", "a"], ["a", "c", "b"]):
        with pytest.raises(ValueError, match="different texts"):
            FusedShelf([Shelf(["a", "c"]), Shelf(other)])


def test_an_encoder_wants_pairs():
    for pairs in ([], [("a", "b")]):
        with pytest.raises(ValueError, match="at least 2"): TextEncoder(None, None, pairs)


TEXT = st.text("ab .。!?\n字", max_size=300)


@settings(max_examples=80, deadline=None)
@given(TEXT, st.integers(1, 40))
def test_passages_fit_overlap_nothing_and_lose_nothing(text, most):
    found = [piece for _, piece in passages(text, lambda some: len(some) <= most)]
    assert all(0 < len(piece) <= most for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert len({place for place, _ in passages(text, lambda some: len(some) <= most)}) == len(found)


def test_passages_are_cut_where_sentences_end():
    text = "The bell rang. Nobody came! 天黑了。她睡着了。"
    assert cut_to_fit(text, lambda some: len(some) <= 28) == [
        "The bell rang.", "Nobody came! 天黑了。她睡着了。"]
    assert passages("# Mill\n\nIt stands.\n\nIt fell.", lambda some: len(some) < 50) == [
        ("paragraph 1", "# Mill\n\nIt stands."), ("paragraph 3", "It fell.")]
    accents = cut_to_fit("e\u0301" * 20, lambda some: len(some) <= 5)
    assert "".join(accents) == "e\u0301" * 20 and all(piece[0] == "e" for piece in accents)
    unbroken = cut_to_fit("x" * 1000, lambda some: len(some) <= 64)
    assert "".join(unbroken) == "x" * 1000 and max(map(len, unbroken)) <= 64


@pytest.fixture
def tok(): return load_tokenizer("tales-short")


def test_files_of_any_encoding(tmp_path, tok):
    chinese = "米娅丢了风筝。她很难过。" * 3
    for name, encoding in (("a.txt", "utf-8"), ("b.txt", "utf-16"), ("c.txt", "utf-8-sig")):
        (tmp_path / name).write_text(chinese + name, encoding)
    (tmp_path / "d.txt").write_bytes(chinese.encode("gb18030"))
    with pytest.raises(ValueError, match="d.txt is not UTF-8 text.*gb18030"):
        shelf_of(tmp_path / "*.txt", tok)
    shelf = shelf_of(tmp_path / "*.txt", tok, encoding="gb18030")
    assert len(shelf) == 4 and all(text.startswith("米娅丢了风筝。") for text in shelf.texts)
    assert shelf.sources[0] == f"{tmp_path / 'a.txt'}, paragraph 1"
    with gzip.open(tmp_path / "e.txt.gz", "wt", encoding="utf-8") as file: file.write("The drum.")
    assert shelf_of(tmp_path / "e.txt.gz", tok).texts == ["The drum."]
    with pytest.raises(ValueError, match="no encoding of text"):
        shelf_of(tmp_path / "a.txt", tok, encoding="klingon")


def test_tables_and_long_documents(tmp_path, tok):
    rows = [{"text": "The kite."}, {"text": ""}, {"text": "The drum."}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shelf = shelf_of(tmp_path / "a.jsonl", tok)
    assert shelf.texts == ["The kite.", "The drum."]
    assert shelf.sources[1].endswith("a.jsonl, text 2, paragraph 1")
    story = " ".join(Tales().sample(seed).text for seed in range(20))
    (tmp_path / "b.md").write_text(story + "\n\nThe end.")
    shelf = shelf_of([tmp_path / "b.md", str(tmp_path / "b.md")], tok, most=100)
    assert max(len(tok.encode(text)) for text in shelf.texts) <= 100 < len(tok.encode(story))
    assert all(text.endswith(".") for text in shelf.texts)
    assert "".join(shelf.texts).replace(" ", "") == (story + "The end.").replace(" ", "")
    assert shelf.sources[0].endswith("b.md, paragraph 1, part 1")
    assert shelf.sources[-1].endswith("b.md, paragraph 2")


def test_what_is_no_document(tmp_path, tok):
    with pytest.raises(FileNotFoundError, match="no file matches"): shelf_of("no/such/*.txt", tok)
    with pytest.raises(FileNotFoundError, match="no file is named"): shelf_of([], tok)
    with pytest.raises(FileNotFoundError, match="no text in"): shelf_of(tmp_path, tok)
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ValueError, match="no text in .*empty.txt"):
        shelf_of(tmp_path / "empty.txt", tok)
    (tmp_path / "a.txt").write_text("Mia had the kite.")
    assert shelf_of(tmp_path, tok).texts == ["Mia had the kite."]
    (tmp_path / "a.txt").unlink()
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7 \xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="it is a PDF"): shelf_of(tmp_path / "a.pdf", tok)
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 8)
    binary = tmp_path / "a.bin"
    with pytest.raises(ValueError, match="a.bin is not UTF-8 text"): shelf_of(binary, tok)
    with pytest.raises(ValueError, match="at least 8 tokens"): shelf_of(binary, tok, 3)
