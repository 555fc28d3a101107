"02_data under attack: every kind of file, bad input, leaks, kills, and batches as pure functions."
import csv
import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from gpt_nb import data
from gpt_nb.data import (
    Batches, Mix, distinct_paragraphs, load_texts, paragraphs, parts_of, split_document, tokenize,
    windows,
)

END = 0
quick = settings(max_examples=60, deadline=None)


class Letters:
    "A tokenizer of 26 letters and a few marks; counts how many texts it was given."
    chars = "\nabcdefghijklmnopqrstuvwxyz .,|0123456789"
    end_id, vocab_size = END, 42

    def __init__(self): self.seen = 0
    def encode(self, text): return [self.chars.index(c) + 1 for c in text]
    def decode(self, ids): return "".join("|" if i == END else self.chars[i - 1] for i in ids)
    def encode_batch(self, texts):
        self.seen += len(texts)
        return [self.encode(t) for t in texts]
    @property
    def spec(self): return dict(model=self.chars)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    import datasets
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder))
    datasets.disable_progress_bars()


def documents(stream): return Letters().decode(stream.tolist()).strip("|").split("|")


def stream(lengths, start=1):
    "A stream of documents of these lengths whose other ids all differ."
    ids, n = [END], start
    for length in lengths:
        ids += [*range(n, n + length), END]
        n += length
    return np.array(ids)


lengths_of = st.lists(st.integers(1, 12), min_size=2, max_size=60)

# ---------------------------------------------------------------- paragraphs

@quick
@given(st.text(alphabet="ab \n\r\t", max_size=60))
def test_paragraphs_lose_nothing(text): assert "".join(paragraphs(text)) == text


some_paragraphs = st.lists(st.sampled_from(["a", "b b", "c\nc", "d", "  b b"]), max_size=6)


@quick
@given(st.lists(some_paragraphs.map("\n\n".join), max_size=6))
def test_distinct_paragraphs_keeps_each_once(texts):
    key = lambda p: " ".join(p.split())
    before = [key(p) for t in texts for p in paragraphs(t) if p.strip()]
    kept = distinct_paragraphs(texts)
    after = [key(p) for t in kept for p in paragraphs(t) if p.strip()]
    assert after == list(dict.fromkeys(before))
    assert distinct_paragraphs(kept) == kept


# ---------------------------------------------------------------- load_texts: built in

def test_pydocs():
    texts = load_texts("pydocs")
    parts = [" ".join(p.split()) for t in texts for p in paragraphs(t) if p.strip()]
    assert len(parts) == len(set(parts)) and len(texts) > 400
    assert 1.7e6 < sum(map(len, texts)) < 2.4e6
    assert texts == load_texts("pydocs") and "The \"assert\" statement" in texts[0]


def test_pycode():
    texts = load_texts("pycode")
    assert 7e6 < sum(map(len, texts)) < 14e6 and texts == load_texts("pycode")
    names = [p.as_posix() for p in data.stdlib_files()]
    unwanted = ("test", "encodings", "pydoc_data", "site-packages")
    assert not any(f"/{part}/" in name for name in names for part in unwanted)
    assert any(n.endswith("/textwrap.py") for n in names)


def test_docstrings_in_the_order_of_the_file():
    source = ('"m"\ndef f():\n    "f"\nclass A:\n    """a\n\n    b\n    """\n'
              '    async def g(self): "g"\nx = 1\n')
    assert data.docstrings(source) == ["m", "f", "a\n\nb", "g"]


def test_tales():
    one, two = load_texts("tales", n_stories=5, seed=3), load_texts("tales-zh:1", n_stories=4)
    assert len(one) == 5 and one == load_texts("tales:1", n_stories=5, seed=3)
    assert one != load_texts("tales", n_stories=5)
    both = load_texts("tales:1+tales-zh:1", n_stories=4, seed=0)
    assert list(both) == load_texts("tales", n_stories=4) + two


@pytest.mark.parametrize("name", ["pydoc", "tales:4", "tales+book", "", "tales-de", "TALES"])
def test_unknown_name_lists_the_known(name):
    known = "expected tales, tales-zh .*pydocs, pycode.*hub:org/name"
    with pytest.raises(ValueError, match=known): load_texts(name)


@pytest.mark.parametrize("n", [0, -1])
def test_no_stories(n):
    with pytest.raises(ValueError, match=f"n_stories={n}: expected at least 1"):
        load_texts("tales", n_stories=n)


# ---------------------------------------------------------------- load_texts: files

ROWS = ["One.\r\nTwo,  \"three\"\n", "四五六", "NA", "7"]


def write_jsonl(path, opened=open):
    with opened(path, "wt", encoding="utf-8") as f:
        for i, text in enumerate(ROWS): f.write(json.dumps({"text": text, "n": i}) + "\n")


def write_csv(path, opened=open):
    rows = [["text", "n"], *([text, i] for i, text in enumerate(ROWS))]
    with opened(path, "wt", encoding="utf-8", newline="") as f: csv.writer(f).writerows(rows)


def write_txt(path, opened=open):
    one, two, three, four = ROWS
    text = f"{one}\n<|end|>\n{two}\n<|endoftext|>\n{three}\n<|end|>\n{four}"
    with opened(path, "wt", encoding="utf-8", newline="") as f: f.write(text)


def write_parquet(path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    pq.write_table(pa.table({"text": ROWS, "n": range(4)}), path)


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.jsonl", "a.csv", "a.parquet", "a.txt.gz",
                                  "a.md.gz", "a.jsonl.gz", "a.csv.gz", "A.TXT"])
def test_each_kind_of_file_gives_its_text_unchanged(tmp_path, name):
    kind = name.lower().removesuffix(".gz").split(".")[1]
    write = dict(jsonl=write_jsonl, csv=write_csv, parquet=write_parquet).get(kind, write_txt)
    write(tmp_path / name, *([gzip.open] if name.endswith(".gz") else []))
    texts = load_texts(str(tmp_path / name))
    assert list(texts) == ROWS
    assert len(texts) == 4 and "4 documents" in repr(texts)
    assert texts[1] == texts[-3] == "四五六" and texts[1:3] == ROWS[1:3]


def test_globs_and_changed_files(tmp_path):
    for name in ("b.txt", "a.txt", "sub/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text {name}")
    assert list(load_texts(f"{tmp_path}/*.txt")) == ["text a.txt", "text b.txt"]
    below = ["text a.txt", "text b.txt", "text sub/c.txt"]
    assert list(load_texts(f"{tmp_path}/**/*.txt")) == below
    (tmp_path / "a.txt").write_text("text A.txt")
    assert list(load_texts(f"{tmp_path}/*.txt"))[0] == "text A.txt"


def test_a_file_that_links_lead_to_is_read_once(tmp_path):
    (tmp_path / "b.txt").write_text("text b")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/c.txt").write_text("text c")
    (tmp_path / "sub/a.txt").symlink_to(tmp_path / "b.txt")
    (tmp_path / "sub/up").symlink_to(tmp_path, target_is_directory=True)    # a ring
    assert sorted(load_texts(f"{tmp_path}/**/*.txt")) == ["text b", "text c"]
    assert list(load_texts(f"{tmp_path}/sub/a.txt")) == ["text b"]


def test_one_long_text_is_one_document(tmp_path):
    text = "First Citizen:\nBefore we proceed.\n\nAll:\nSpeak.\n\n" * 100
    (tmp_path / "long.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert list(load_texts(str(tmp_path / "long.txt"))) == [text]


def test_a_very_long_text_is_cut_after_blank_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_WHOLE", 10_000)
    monkeypatch.setattr(data, "_PIECE", 500)
    text = "".join(f"line {i}\nmore\n\n" for i in range(2000))
    (tmp_path / "long.txt").write_text(text)
    texts = list(data.read_text(str(tmp_path / "long.txt")))
    assert "".join(texts) == text
    assert all(300 <= len(t) < 1100 and t.endswith("\n\n") for t in texts[:-1])
    (tmp_path / "line.txt").write_text("x" * 20_000)
    pieces = list(data.read_text(str(tmp_path / "line.txt")))
    assert "".join(pieces) == "x" * 20_000 and max(map(len, pieces)) <= 1500


def test_columns(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"sentence": "hello", "label": 1}\n{"label": 0, "sentence": "there"}\n')
    assert list(load_texts(str(path))) == ["hello", "there"]
    assert list(load_texts(str(path), column="sentence")) == ["hello", "there"]
    with pytest.raises(ValueError, match=r"no column 'body': it has \['label', 'sentence'\]"):
        load_texts(str(path), column="body")
    (tmp_path / "b.csv").write_text("q,a\nx,y\n")
    with pytest.raises(ValueError, match=r"several columns, \['a', 'q'\].* column .--column"):
        load_texts(str(tmp_path / "b.csv"))
    assert list(load_texts(tmp_path / "b.csv", column="a")) == ["y"]


PACKED = gzip.compress(b"hello", mtime=2**30 + 12345)   # no clock in the names of tests


@pytest.mark.parametrize("name, content, message", [
    ("a.txt", b"", "a.txt: the file is empty"),
    ("a.txt", b" \n\n ", "empty"),
    ("a.csv", b"text\n", "empty"),
    ("a.jsonl", b"", "empty"),
    ("a.txt", "今天天气".encode("gb18030"), "a.txt is not UTF-8 text .byte 0xbd at 0.: "
     "as gb18030 it reads '今天天气'; .* give encoding=\"gb18030\" .--encoding gb18030"),
    ("a.txt", PACKED,
     "a.txt is not UTF-8 text .byte 0x8b at 1.: it is packed, unpack it first with gunzip"),
    ("a.txt.gz", gzip.compress(PACKED, mtime=0), "it is packed, unpack it first"),
    ("a.csv", b"text\n\xff\n", "not UTF-8"),
    ("a.txt.gz", b"no gzip", "a.txt.gz cannot be read"),
    ("a.txt.gz", gzip.compress(b"hello " * 1000, mtime=0)[:30], "a.txt.gz cannot be read"),
    ("a.parquet", b"no parquet", "a.parquet cannot be read"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "b"\n', "line 2 is not one JSON object"),
    ("a.jsonl", b'["a"]\n', "row 1 is not an object"),
    ("a.jsonl", b'{"text": "a"}\n{"text": null}\n',
     "a.jsonl: row 2: column 'text' holds None, not a string"),
    ("a.jsonl", b'{"text": "a"}\n{"tex": "b", "x": "c"}\n',
     r"a.jsonl: row 2 has no column 'text': it has \['tex', 'x'\]"),
    ("a.csv", b'text,n\nb,0\n"a,1\n', "a.csv: the row at line 3 cannot be read .*must end with"),
    ("a.tsv", b'text\tn\n"a" b\t1\n', "a.tsv: the row at line 2 cannot be read .*must end with"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "b\\ud800"}\n',
     "a.jsonl: row 2: column 'text' holds a lone surrogate at character 1"),
    ("a.jsonl", b'{"text": "a"}\n' + b"[" * 100_000, "a.jsonl: line 2 is not one JSON object"),
    ("a.jsonl", b'{"a": 5}\n', r"a.jsonl: row 1 has no column of strings: it has \['a'\]"),
])
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message): load_texts(str(tmp_path / name))


# ---------------------------------------------------------------- load_texts: rows and columns

def read(folder, name, content, **kw):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(load_texts(folder / name, **kw))


@pytest.mark.parametrize("name, content, texts", [
    ("a.csv", 'text,label\n"The boat left, but the crew stayed",1\nNo comma here,0\n',
     ["The boat left, but the crew stayed", "No comma here"]),
    ("a.csv", '\ufefftext,label\r\nA,1\r\n', ["A"]),                 # a mark of the byte order
    ("a.csv", '\n\ntext,label\n\nA,1\n  \n\nB,2\n\n', ["A", "B"]),   # blank lines
    ("a.csv", 'id,text\n1,"two\nlines, ""quoted""\n\nand a gap"\n2,B\n',
     ['two\nlines, "quoted"\n\nand a gap', "B"]),
    ("a.csv", 'text,label\n"A\0B",1\nC\0,2\n', ["A\0B", "C\0"]),
    ("a.csv", 'label,text,label\n1,A,2\n', ["A"]),                   # two others of one name
    ("a.csv", ',text,\n0,A,\n', ["A"]),                              # others without a name
    ("a.csv", 'text\n"Hello, world"\nB\n', ["Hello, world", "B"]),
    ("a.csv", f'text,n\n{"long " * 50_000},1\n', ["long " * 50_000]),
    ("a.csv", 'text,n\nA "quoted" word,1\n', ['A "quoted" word']),
    ("a.csv", '"text, cleaned"\nA\n', ["A"]),
    ("a.tsv", 'text\tn\nA, with a comma\t1\n', ["A, with a comma"]),
    ("a.csv", '\n \ntext;n\n"A, or; B";1,5\n\nC, D;2\n', ["A, or; B", "C, D"]),   # as in Europe
    ("a.csv", 'sep=;\r\nn;text\r\n1;A\r\n', ["A"]),                 # a line of Excel's
    ("a.csv", '"sep=,"\ntext,"n;m;l"\nA,1\n', ["A"]),
    ("a.csv", 'text\tn\nA, with a comma\t1\n', ["A, with a comma"]),
    ("a.csv", 'n|text\n1|A;B\n', ["A;B"]),
    ("a.csv", '"a;b, c;d"\nA\n', ["A"]),
    ("a.tsv", 'text,n\n"A\tB",1\n', ["A\tB"]),
    ("a.jsonl", '{"n": null, "text": "A"}\n\n{"text": "B", "n": {"text": "not this"}}\n'
     '{"n": [{"text": 1}], "text": "C"}', ["A", "B", "C"]),
    ("a.jsonl", '\ufeff{"text": "A\\u0000B"}\r\n', ["A\0B"]),
    ("a.jsonl", '{"text": "A", "n": ' + "9" * 9000 + '}\n{"text": "B", "n": 1e999}\n'
     '{"text": "C", "n": NaN}\n', ["A", "B", "C"]),
    ("a.jsonl", '{"text": "A", "n": 1, "n": 2}\n{"text": "B", "m": "\\ud800"}\n', ["A", "B"]),
    ("a.jsonl", '{"text": "A"}\n{"text": "B", "title": "not this"}\n', ["A", "B"]),
    ("a.jsonl", '{"text": "A\u2028B\x85C"}\n{"text": "D"}\n', ["A\u2028B\x85C", "D"]),
    ("a.ndjson", '{"text": "A"}\n{"text": "B"}\n', ["A", "B"]),
    ("a.json", '{"text": "A"}\n{"text": "B"}\n', ["A", "B"]),
    ("a.json", '[{"text": "A", "n": []},\n {"n": null, "text": "B"}]', ["A", "B"]),
    ("a.json", '\ufeff \n[{"text": "A"}, {"text": "B"}]\n', ["A", "B"]),
    ("A.JSON", '[{"title": "A"}]', ["A"]),
    ("a.txt", "A\0B\n", ["A\0B\n"]),
])
@pytest.mark.parametrize("packed", [False, True])
def test_what_a_file_holds_comes_back_whole(tmp_path, name, content, texts, packed):
    data = content.encode()
    assert read(tmp_path, name + ".gz" * packed, gzip.compress(data) if packed else data) == texts


@pytest.mark.parametrize("name, content, message", [
    ("a.csv", "text,label\nNo comma here,0\nThe boat left, but the crew stayed,1\n",
     r"a.csv: row 2 \(line 3\) has 3 values and the first line 2 names"),
    ("a.csv", "text,label\nA,1\nB\n", r"a.csv: row 2 \(line 3\) has 1 values and the first line 2"),
    ("a.csv", 'text,label\n"A\nB",1\n\nC,2,\n', r"a.csv: row 2 \(line 5\) has 3 values"),
    ("a.csv", "text\nHello, world\n",
     r"a.csv: row 1 \(line 2\) has 2 values and the first line 1 names"),
    ("a.csv", "text,n,text\nA,1,B\n", r"row 1 \(line 2\) has two columns 'text'"),
    ("a.csv", "text;label\nA; B;1\n", r"row 1 \(line 2\) has 3 values .* that holds a semicolon"),
    ("a.tsv", "text\tlabel\nA\tB\t1\n", "put a text that holds a tab in double quotes"),
    ("a.csv", "title,body\nA,B\n",
     r"row 1 .line 2. has several columns, \['body', 'title'\].* column .--column"),
    ("a.tsv", "text\tn\nA\t1\t2\n", r"a.tsv: row 1 \(line 2\) has 3 values"),
    ("a.jsonl", '{"text":"A."}\n{"title":"B title"}\n{"text":"C.","title":"C title"}\n',
     r"a.jsonl: row 2 has no column 'text': it has \['title'\]"),
    ("a.jsonl", '{"title":"A."}\n{"title":"B title","note":"more"}\n',
     r"a.jsonl: row 2 has several columns, \['note', 'title'\]"),
    ("a.jsonl", '{"title":"A."}\n{"title":null,"note":"more"}\n',
     r"a.jsonl: row 2 has several columns, \['note', 'title'\]"),
    ("a.jsonl", '{"text": "A", "text": "B"}\n', "a.jsonl: row 1 has two columns 'text'"),
    ("a.jsonl", '{"text": ["A", "B"]}\n',
     r"a.jsonl: row 1: column 'text' holds \['A', 'B'\], not a string"),
    ("a.jsonl", '{"text": "A"}{"text": "B"}\n',
     "a.jsonl: line 1 is not one JSON object: Extra data"),
    ("a.jsonl", '[{"text": "A"}, {"text": "B"}]\n', "a.jsonl: row 1 is not an object"),
    ("a.json", '[{"text": "A"}, "B"]', "a.json: row 2 is not an object"),
    ("a.json", '[{"text": "A"}, {"title": "B"}]', "a.json: row 2 has no column 'text'"),
    ("a.json", '[{"text": "A"}, {"text": "B"}', "a.json is not one JSON array: Expecting"),
    ("a.json", '[{"text": "A"}]\n[{"text": "B"}]', "a.json is not one JSON array: Extra data"),
])
def test_a_row_that_does_not_fit_is_named(tmp_path, name, content, message):
    for end in ("", ".gz"):
        with pytest.raises(ValueError, match=message.replace(name, name + end)):
            read(tmp_path, name + end, gzip.compress(content.encode()) if end else content)


def test_a_column_that_was_asked_for_is_read_and_no_other(tmp_path):
    rows = '{"text": "A", "title": "a", "n": 1}\n{"title": "b", "text": null}\n'
    assert read(tmp_path, "a.jsonl", rows, column="title") == ["a", "b"]
    assert read(tmp_path, "b.csv", "text,title\nA,a\nB,b\n", column="title") == ["a", "b"]
    says = r"c.jsonl: row 2 has no column 'title': it has \['text'\]"
    with pytest.raises(ValueError, match=says):
        read(tmp_path, "c.jsonl", '{"title": "a"}\n{"text": "B"}\n', column="title")
    with pytest.raises(ValueError, match="d.jsonl: row 1: column 'n' holds 5"):
        read(tmp_path, "d.jsonl", '{"n": 5, "text": "A"}', column="n")


def test_one_column_for_all_files(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "A"}\n')
    (tmp_path / "b.csv").write_text("title\nB title\n")
    says = r"b.csv: row 1 \(line 2\) has no column 'text': it has \['title'\]"
    with pytest.raises(ValueError, match=says): load_texts(tmp_path / "*")
    (tmp_path / "b.csv").write_text("title,text\nB title,B\n")
    assert list(load_texts(tmp_path / "*")) == ["A", "B"]


def test_parquet_reads_one_column_and_no_other(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    def write(name, columns):
        pq.write_table(pa.table(columns), tmp_path / name)
        return tmp_path / name

    odd = dict(nothing=pa.nulls(2), nested=[{"text": "no"}, {"text": "never"}],
               lists=[["a"], None], raw=[b"\xff", None],
               when=pa.array([2**62, 0], pa.timestamp("ns")),
               far=pa.array([2**60, -2**60], pa.timestamp("us")))
    a = write("a.parquet", dict(odd, text=["A\0", "B\n\nb"]))
    assert list(load_texts(a)) == ["A\0", "B\n\nb"]
    b = write("b.parquet", dict(odd, title=pa.array(["A", "A"]).dictionary_encode()))
    assert list(load_texts(b)) == ["A", "A"]
    c = write("c.parquet", dict(title=["A", "B"], body=pa.array(["a", "b"], pa.large_string())))
    with pytest.raises(ValueError, match=r"c.parquet has several columns, \['body', 'title'\]"):
        load_texts(c)
    assert list(load_texts(c, column="body")) == ["a", "b"]
    d = write("d.parquet", {"text": ["A", None], "a.b": ["a", "b"]})
    with pytest.raises(ValueError, match="d.parquet: row 2: column 'text' holds None"):
        load_texts(d)
    assert list(load_texts(d, column="a.b")) == ["a", "b"]
    twice = pa.Table.from_arrays([pa.array(["A"]), pa.array(["B"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "e.parquet")
    with pytest.raises(ValueError, match="e.parquet has two columns 'text'"):
        load_texts(tmp_path / "e.parquet")
    f = write("f.parquet", odd)
    with pytest.raises(ValueError, match="f.parquet has no column of strings"): load_texts(f)
    with pytest.raises(ValueError, match="f.parquet: column 'lists' holds list<.*, not strings"):
        load_texts(f, column="lists")


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
other_text = st.text("a,\"\n\r ;", max_size=5)


@quick
@given(st.lists(st.tuples(any_text, other_text), min_size=1, max_size=8))
def test_any_text_that_csv_or_json_wrote_comes_back(rows):
    import tempfile
    texts = [text for text, _ in rows if text.strip()]
    objects = [dict(other=other, text=text) for text, other in rows]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in objects]
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/a.csv", "w", encoding="utf-8", newline="") as f:
            csv.writer(f).writerows([["text", "other"], *rows])
        Path(folder, "a.jsonl").write_text("".join(lines), "utf-8", newline="")
        Path(folder, "a.json").write_text(json.dumps(objects, indent=1), "utf-8")
        for name in ("a.csv", "a.jsonl", "a.json"):
            got = data.read_table(f"{folder}/{name}", data.TextColumn(None))
            assert [text for text in got if text.strip()] == texts


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file matches .*none.txt"):
        load_texts(str(tmp_path / "none.txt"))
    with pytest.raises(FileNotFoundError, match="no file matches"):
        load_texts(str(tmp_path / "*.txt"))


# ---------------------------------------------------------------- load_texts: folders and names

def fill(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_folder_gives_its_text_files(tmp_path):
    fill(tmp_path, a_txt="A", sub__b_md="B", sub__deep__c_rst="C", empty_txt="", _hidden_txt="no",
         _git__x_txt="no", picture_png="no", code_py="no")
    (tmp_path / "d e.TXT.gz").write_bytes(gzip.compress(b"D E"))
    (tmp_path / "sub/up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "again").symlink_to(tmp_path / "sub", target_is_directory=True)
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nowhere")
    for name in (tmp_path, f"{tmp_path}/", [tmp_path]):
        assert sorted(load_texts(name)) == ["A", "B", "C", "D E"]
    assert list(load_texts(tmp_path / ".git")) == ["no"]   # one that is asked for by its name


def test_a_folder_of_tables_is_read_and_one_of_both_kinds_refused(tmp_path):
    fill(tmp_path, a_jsonl='{"text": "A"}', b_csv="text\nB\n")
    assert list(load_texts(tmp_path)) == ["A", "B"]
    fill(tmp_path, c_txt="C")
    says = "holds plain text, such as .*c.txt, and tables, such as .*a.jsonl: .*[*][*]/[*].txt"
    with pytest.raises(ValueError, match=says): load_texts(tmp_path)


def test_a_folder_without_text_says_what_was_looked_for(tmp_path):
    fill(tmp_path, a_py="a", sub__b_py="b", Makefile="c")
    says = r"looked for .txt .text .md .*.parquet .*found 2 with .py, 1 with no ending; .*[*].py'"
    with pytest.raises(FileNotFoundError, match=says): load_texts(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="found no file;"):
        load_texts(tmp_path / "none")


def test_rings_of_links_do_not_grow(tmp_path):
    fill(tmp_path, a_txt="A", sub__b_txt="B")
    for i in range(6): (tmp_path / f"sub/up{i}").symlink_to(tmp_path, target_is_directory=True)
    assert list(load_texts(f"{tmp_path}/**/*.txt")) == ["A", "B"]
    assert list(load_texts(f"{tmp_path}/**")) == ["A", "B"]


def test_names_with_signs_of_patterns(tmp_path, monkeypatch):
    fill(tmp_path, **{"texts [1]__x[2]_txt": "A", "sub__y_txt": "B"})
    for name in ("texts [1]/x[2].txt", "texts [1]/*.txt", "texts [1]/**/*.txt", "texts [1]"):
        assert list(load_texts(f"{tmp_path}/{name}")) == ["A"]
    monkeypatch.chdir(tmp_path)
    assert list(load_texts("**/*.txt")) == ["B", "A"]
    assert list(load_texts("sub/[xy].txt")) == ["B"]


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    fill(tmp_path, a_txt="A")
    def forbidden(path, mode="rb", **how): raise PermissionError(13, "Permission denied")
    monkeypatch.setattr(data, "open_file", forbidden)
    with pytest.raises(PermissionError, match="a.txt may not be read"): load_texts(tmp_path)


def test_names_are_joined_and_weighed(tmp_path, monkeypatch):
    fill(tmp_path, a_txt="A", b_csv="text\nB\n", sub__c_txt="C")
    for name in ("c++.txt", "a@2", "b+a@3.txt"): (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    texts = load_texts("tales-zh@0.5+sub+b.csv@2+a*.txt+c++.txt@3+a@2+a@2@2", n_stories=2)
    assert list(texts[2:]) == ["C", "B", "A", "c++.txt", "a@2", "a@2"] and len(texts) == 8
    assert texts.weights == [0.5, 1, 2, 1, 3, 1, 2] and texts[-4] == "A"
    assert list(load_texts("b+a@3.txt")) == ["b+a@3.txt"]
    one = load_texts(["sub@2", tmp_path / "b.csv", "a.txt+c++.txt"])
    assert list(one) == ["C", "B", "A", "c++.txt"] and one.weights == [2, 1, 1, 1]
    assert parts_of("tales@1e-1+hub:a/b@2") == [("tales", 0.1), ("hub:a/b", 2)]
    assert data.world_of("tales-zh:2@0.5").lang == "zh"


@pytest.mark.parametrize("name, error, message", [
    ("tales@0", ValueError, "tales@0: weight 0: expected a number above 0"),
    ("tales@-1", ValueError, "weight -1"), ("tales@nan", ValueError, "weight nan"),
    ("tales@inf", ValueError, "weight inf"), ("tales@1001", ValueError, "at most 1000"),
    ("tales@x", ValueError, "unknown text 'tales@x'"),
    ("tales+", ValueError, "unknown text ''"), ("tales+none/*.txt", FileNotFoundError, "none/"),
    ({"tales": 2}, TypeError, "names no text"), (b"tales", TypeError, "names no text"),
    ([], TypeError, "names no text"), (None, TypeError, "names no text"), ([3], TypeError, "3"),
])
def test_names_that_cannot_be_read(name, error, message):
    with pytest.raises(error, match=message): load_texts(name)


# ---------------------------------------------------------------- load_texts: encodings

CHINESE = ("全国人民代表大会常务委员会第十次会议今天上午在北京举行。\n"
           "会议审议了国务院的报告。\n") * 20
TRADITIONAL = "全國人民代表大會常務委員會第十次會議今天上午在北京舉行。\n" * 20
JAPANESE, KOREAN = "吾輩は猫である。名前はまだ無い。\n" * 20, "오늘은 날씨가 좋습니다.\n" * 20
FRENCH, ENGLISH = "Le café est déjà fermé à l'été.\n" * 20, "A kite is not a boat.\n" * 20


@pytest.mark.parametrize("encoding, text", [
    ("gb18030", CHINESE), ("gb18030", "今天天气"), ("big5", TRADITIONAL), ("shift_jis", JAPANESE),
    ("euc_jp", JAPANESE), ("euc_kr", KOREAN), ("cp1252", FRENCH), ("utf-16-le", CHINESE),
    ("utf-16-be", CHINESE), ("utf-16-le", ENGLISH), ("utf-16-be", FRENCH), ("utf-32-le", ENGLISH),
])
def test_an_encoding_is_said_and_read(tmp_path, encoding, text):
    name = encoding.replace("_", "-")
    says = f"a.txt is not UTF-8 text .*as {name} it reads .* .--encoding {name}"
    with pytest.raises(ValueError, match=says): read(tmp_path, "a.txt", text.encode(encoding))
    for name, content in (("a.txt", text), ("a.jsonl", json.dumps(dict(text=text))),
                          ("a.csv", f'text\r\n"{text}"\r\n')):
        got = read(tmp_path, name, content.encode(encoding), encoding=encoding)
        assert got == [text]
    packed = gzip.compress(text.encode(encoding))
    assert read(tmp_path, "b.txt.gz", packed, encoding=encoding) == [text]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("asked", [None, "gb18030", "utf-16"])
def test_a_mark_of_the_byte_order_is_heeded(tmp_path, encoding, asked):
    for text in (CHINESE, ENGLISH):
        assert read(tmp_path, "a.txt", text.encode(encoding), encoding=asked) == [text]
        rows = json.dumps([dict(text=text)]).encode(encoding)
        assert read(tmp_path, "a.json", rows, encoding=asked) == [text]


def test_utf16_without_a_mark(tmp_path):
    one_line = "从前城堡里住着一个贫穷的男孩，名叫小明。他有一只猫和一座小屋。"   # 一 has a byte 0
    texts = [CHINESE, ENGLISH, one_line, one_line * 50, "abc", "Привет, мир", "犬が一匹いる。",
             "가 나는", "Zażółć", "שלום עולם", "สวัสดี ชาวโลก"]
    for order, text in itertools.product(("-le", "-be"), texts):
        for plain in ("utf-16", "utf-32"):
            assert read(tmp_path, "a.txt", text.encode(plain + order), encoding=plain) == [text]


def test_a_folder_of_two_encodings(tmp_path):
    for name, encoding in (("a.txt", "utf-8"), ("b.txt", "gb18030")):
        (tmp_path / name).write_text(CHINESE, encoding)
    (tmp_path / "c.txt").write_text("plain")
    (tmp_path / "d.txt").touch()
    assert list(load_texts(tmp_path, encoding="gb18030")) == [CHINESE, CHINESE, "plain"]
    (tmp_path / "b.txt").write_bytes(CHINESE.encode("utf-16-be"))
    (tmp_path / "c.txt").unlink()
    assert list(load_texts(tmp_path, encoding="utf-16")) == [CHINESE, CHINESE]


@pytest.mark.parametrize("content, encoding, message", [
    (CHINESE.encode("gb18030"), "big5", "is not big5 text .byte .*as gb18030 it reads '全国人民"),
    (CHINESE.encode("gb18030"), "ascii", "is not ascii text .byte .*as gb18030 it reads"),
    (CHINESE.encode("gb18030"), "utf-16", "is not utf-16 text .*: as gb18030 it reads"),
    (ENGLISH.encode(), "utf-16",
     "is not utf-16 text .none of its bytes is 0.: as utf-8 .*--encoding. out"),
    (CHINESE.encode()[:302], None,
     r"byte 0x\w\w at \d+.: up to there it is UTF-8, so it may be dam"),
    (b"plain " * 400_000 + b"\xff", None, "byte 0xff at 2,400,000.: say how it is written"),
    ("Привет, как дела? Сегодня хорошая погода.\n".encode("koi8-r") * 9, None,
     "as koi8-r it reads 'Прив"),
    (b"\xef\xbb\xbf" + CHINESE.encode() + b"\xff", None,
     f"byte 0xff at {3 + len(CHINESE.encode()):,}.: up to there it is UTF-8"),
    (b"A", "undefined", "encoding='undefined' .* is no encoding of text"),
    (b"%PDF-1.4\n%\xe2\xe3", None, "it is a PDF"),
    (b"PK\3\4\xff", None, "it is a zip archive"),
    (b"A", "gbk2", "encoding='gbk2' .--encoding. is no encoding of text"),
    (b"A", "rot13", "encoding='rot13' .* is no encoding of text"),
    (b"A", "", "encoding='' .* is no encoding of text"),
])
def test_a_wrong_encoding_is_one_clear_line(tmp_path, content, encoding, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, "a.txt", content, encoding=encoding)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- load_texts: hub

def test_hub_names(monkeypatch):
    import datasets
    calls = []
    def fake(*args, **kw):
        calls.append((args, kw))
        return datasets.Dataset.from_dict({"sentence": ["hello", "there"], "label": [0, 1]})
    monkeypatch.setattr(datasets, "load_dataset", fake)
    assert list(load_texts("hub:org/name")) == ["hello", "there"]
    load_texts("hub:org/name/config"), load_texts("hub:name")
    train = {"split": "train"}
    assert calls == [(("org/name",), train), (("org/name", "config"), train), (("name",), train)]
    with pytest.raises(ValueError, match="hub:org/name has no column 'text'"):
        load_texts("hub:org/name", column="text")
    for bad in ("hub:", "hub:a//b", "hub:a/b/c/d"):
        with pytest.raises(ValueError, match="hub:org/name"): load_texts(bad)


def test_hub_columns(monkeypatch):
    import datasets
    columns = {}
    made = lambda *args, **kw: datasets.Dataset.from_dict(columns)
    monkeypatch.setattr(datasets, "load_dataset", made)
    columns.update(title=["T"], body=["B"], n=[1])
    several = r"hub:a/b has several columns, \['body', 'title'\].* column .--column"
    with pytest.raises(ValueError, match=several): load_texts("hub:a/b")
    assert list(load_texts("hub:a/b", column="body")) == ["B"]
    with pytest.raises(ValueError, match=r"hub:a/b: column 'n' holds int64, not strings"):
        load_texts("hub:a/b", column="n")
    columns.update(text=["A"], nested=[{"text": "no"}])
    assert list(load_texts("hub:a/b")) == ["A"]
    columns.update(text=[["A", "B"]])
    with pytest.raises(ValueError, match="hub:a/b: column 'text' holds list<.*, not strings"):
        load_texts("hub:a/b")
    columns.clear()
    columns.update(n=[1])
    with pytest.raises(ValueError, match=r"hub:a/b has no column of strings: it has \['n'\]"):
        load_texts("hub:a/b")


def test_hub_other_columns_are_not_decoded(monkeypatch):
    import datasets
    features = datasets.Features(text=datasets.Value("string"), picture=datasets.Image())
    rows = dict(text=["A"], picture=[dict(bytes=b"no picture", path=None)])
    made = datasets.Dataset.from_dict(rows, features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kw: made)
    assert list(load_texts("hub:a/b")) == ["A"]
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kw: made.select([]))
    with pytest.raises(ValueError, match="hub:a/b has no rows"): load_texts("hub:a/b")


def test_hub_out_of_reach(monkeypatch):
    import datasets
    def fail(*args, **kw): raise ConnectionError("no route to the Hub\nmore")
    monkeypatch.setattr(datasets, "load_dataset", fail)
    says = r"hub:org/name could not be loaded \(ConnectionError: no route to the Hub\)"
    with pytest.raises(FileNotFoundError, match=says): load_texts("hub:org/name")


# ---------------------------------------------------------------- tokenize

def some_texts(n, seed=0):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("abcdef .\n"), rng.integers(1, 40))) for _ in range(n)]


short_texts = st.lists(st.text(alphabet="abc \n", max_size=12), min_size=2, max_size=30)


@settings(max_examples=25, deadline=None)
@given(short_texts.filter(lambda ts: len({t for t in ts if t}) > 1), st.integers(20, 200))
def test_the_stream_holds_every_document_once(texts, chunk):
    data._CHUNK, before = chunk, data._CHUNK
    try: tokens = tokenize(texts, Letters(), progress=False)
    finally: data._CHUNK = before
    train, val = documents(tokens.train), documents(tokens.val)
    assert sorted(train + val) == sorted(t for t in texts if t)
    assert not set(train) & set(val) and train and val
    for side in (tokens.train, tokens.val):
        assert side[0] == side[-1] == END and (side == END).sum() == len(documents(side)) + 1


def test_tokens_are_memory_mapped_and_typed(tmp_path):
    tokens = tokenize(some_texts(50), Letters(), tmp_path, progress=False)
    assert isinstance(tokens.train, np.memmap) and tokens.train.dtype == np.uint16
    assert tokens.folder.parent == tmp_path
    assert (tokens.end_id, tokens.vocab_size) == (END, 42) and "vocab_size=42" in repr(tokens)
    tok = Letters()
    tok.vocab_size = 70_000
    assert tokenize(some_texts(50), tok, progress=False).train.dtype == np.uint32
    tok.vocab_size = 5
    with pytest.raises(ValueError, match="outside its vocabulary of 5"):
        tokenize(some_texts(50), tok, progress=False)


def test_the_split_hangs_on_content_alone():
    texts = some_texts(300)
    more = texts[::-1] + some_texts(200, 1)
    first, second = (tokenize(ts, Letters(), progress=False) for ts in (texts, more))
    sides = [(set(documents(t.train)), set(documents(t.val))) for t in (first, second)]
    assert sides[0][0] <= sides[1][0] and sides[0][1] <= sides[1][1]
    assert 0.04 < len(sides[0][1]) / 300 < 0.18
    assert len(tokenize(texts, Letters(), val=0, progress=False).val) == 0


some_parts = st.lists(st.sampled_from(["a", "bb b", "c\nc", "dd\n"]), min_size=2, max_size=30)


@quick
@given(some_parts, st.sampled_from(["\n\n", "\n"]), st.floats(0.05, 0.5))
def test_a_lone_document_is_cut_in_two(parts, gap, val):
    text = gap.join(parts)
    first, last = split_document(text, val)
    assert first + last == text and first.strip() and last.strip() and first.endswith("\n")


def test_a_lone_document_keeps_its_last_part_for_validation():
    text = "".join(f"speech {i} has some words.\n\n" for i in range(1000))
    tokens = tokenize([text], Letters(), progress=False)
    train, val = documents(tokens.train), documents(tokens.val)
    assert train + val == split_document(text, 0.1) or train[0] + val[0] == text
    assert abs(len(val[0]) / len(text) - 0.1) < 0.001 and val[0].startswith("speech 900")


@pytest.mark.parametrize("texts, error, message", [
    ([], ValueError, "no text"),
    (["", ""], ValueError, "no text"),
    (["one line only"], ValueError, "too short to split"),
    (["\n\none"], ValueError, "too short to split"),
    (["same", "same"], ValueError, "same text"),
    ("a string", TypeError, "one string"),
    (["a", 3], TypeError, "document 1 is int"),
    (["a", "b\ud800"], ValueError, "document 1 holds a lone surrogate"),
])
def test_texts_that_cannot_be_split(texts, error, message):
    with pytest.raises(error, match=message): tokenize(texts, Letters(), progress=False)


@pytest.mark.parametrize("val", [-0.1, 1, 1.5, float("nan")])
def test_val_out_of_range(val):
    with pytest.raises(ValueError, match="val="): tokenize(["a", "b"], Letters(), val=val)


def test_no_tokenizer():
    with pytest.raises(TypeError, match="tok is NoneType: give a tokenizer"):
        tokenize(["a", "b"], None)


def test_cached_by_content(tmp_path):
    texts, tok = some_texts(100), Letters()
    first = tokenize(texts, tok, tmp_path, progress=False)
    seen = tok.seen
    again = tokenize(list(texts), tok, tmp_path, progress=False)
    assert tok.seen == seen and again.folder == first.folder
    assert np.array_equal(again.train, first.train)
    changed = tokenize(texts[:-1] + ["other"], tok, tmp_path, progress=False)
    assert changed.folder != first.folder and tok.seen > seen
    assert tokenize(texts, tok, tmp_path, val=0.3, progress=False).folder != first.folder
    val, folder = first.val.copy(), first.folder
    del first, again
    (folder / "val.bin").write_bytes(b"")  # a file cut off is made anew
    assert np.array_equal(tokenize(texts, tok, tmp_path, progress=False).val, val)


def test_long_documents_go_to_the_tokenizer_in_pieces(monkeypatch):
    monkeypatch.setattr(data, "_CHUNK", 160)
    tok = Letters()
    text = "abc def.\nghi jkl\n\n" * 200
    tokens = tokenize([text, "small"], tok, val=0, progress=False)
    assert documents(tokens.train) == [text, "small"] and tok.seen > 100


@pytest.mark.parametrize("split", ["GPT2_SPLIT", "GPT4_SPLIT"])
@pytest.mark.parametrize("gap", ["\n", "\n\n", "\r\n", "\n\n\n", " \n"])
def test_pieces_give_the_ids_of_the_whole(monkeypatch, split, gap):
    """GPT-2 parts the last line end before a word from those before it, so a cut behind two of them
    would show."""
    from gpt_nb import tokenizer
    lines = gap.join(f"line {i} /of 12 words!" for i in range(400))
    text = lines + "\n/path\n\u0301x" * 20 + " and on " * 30
    examples = [text, "\n\n\n a \n\n b"] * 3
    tok = tokenizer.BPETokenizer.train(examples, 400, split=getattr(tokenizer, split))
    monkeypatch.setattr(data, "_CHUNK", 4000)
    pieces = data.cut_in_pieces(text, tok)
    assert "".join(pieces) == text
    assert sum(tok.encode_batch(pieces), []) == tok.encode_batch([text])[0]
    if gap == "\n" or split == "GPT4_SPLIT": assert len(pieces) > 10


def test_a_text_that_must_not_be_cut_stays_whole(monkeypatch):
    from gpt_nb.tokenizer import BPETokenizer
    monkeypatch.setattr(data, "_CHUNK", 400)
    text = "ab\n" * 1000
    tok = BPETokenizer.train([text], 300, split=r"[\s\S]+")  # a document is one pre-token
    assert data.cut_in_pieces(text, tok) == [text]


SLOW = """
    import sys, time
    sys.path.insert(0, {here!r})
    from gpt_nb import data
    from test_data import Letters, some_texts
    data._CHUNK = 2000
    class Slow(Letters):
        def encode_batch(self, texts):
            print("chunk", flush=True)
            time.sleep(0.02)
            return super().encode_batch(texts)
    print(data.tokenize(some_texts(4000), Slow(), {folder!r}, progress=False))
"""


def start_slow(folder):
    code = textwrap.dedent(SLOW.format(here=str(Path(__file__).parent), folder=str(folder)))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def noted(folder): return json.loads(next(folder.glob("*/tokens.json")).read_text())


def chunk_ends(texts):
    "How many pieces are done after each chunk."
    pieces = data.pieces_of(zip(texts, itertools.repeat("train")), Letters())
    return np.cumsum([len(chunk) for chunk in data.chunks_of(pieces)]).tolist()


@pytest.mark.skipif(os.name == "nt", reason="kills with a POSIX signal")
def test_killed_then_resumed_by_two_processes_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_CHUNK", 2000)
    ends = chunk_ends(some_texts(4000))
    process = start_slow(tmp_path)
    for _ in range(10): process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not noted(tmp_path)["finished"]
    done = ends.index(noted(tmp_path)["pieces"]) + 1
    assert 9 <= done <= 20
    both = [start_slow(tmp_path) for _ in range(2)]
    chunks = sorted(p.communicate()[0].count("chunk") for p in both)
    assert all(p.returncode == 0 for p in both)
    assert chunks == [0, len(ends) - done]  # one waited, one did only what was left
    assert {path.name for path in tmp_path.glob("*/*")} == {"train.bin", "val.bin", "tokens.json"}
    folders = (tmp_path, None)
    resumed, whole = (tokenize(some_texts(4000), Letters(), f, progress=False) for f in folders)
    assert np.array_equal(resumed.train, whole.train) and np.array_equal(resumed.val, whole.val)


class Stopped(Letters):
    "Stops before the chunk after so many."
    def __init__(self, chunks):
        super().__init__()
        self.left = chunks

    def encode_batch(self, texts):
        if not self.left: raise KeyboardInterrupt
        self.left -= 1
        return super().encode_batch(texts)


@pytest.mark.parametrize("chunks", range(5))
@pytest.mark.parametrize("harm", ["none", "half a chunk", "short file", "empty note", "no file"])
def test_stopped_anywhere_the_arrays_are_the_same(tmp_path, monkeypatch, chunks, harm):
    "What was under way is cut off; where the files hold less than the note says, all is made anew."
    monkeypatch.setattr(data, "_CHUNK", 400)
    texts = some_texts(80)
    whole = tokenize(texts, Letters(), progress=False)
    total = len(chunk_ends(texts))
    assert total > 3
    if chunks < total:
        with pytest.raises(KeyboardInterrupt):
            tokenize(texts, Stopped(chunks), tmp_path, progress=False)
    else: tokenize(texts, Letters(), tmp_path, progress=False)
    kept = chunks
    if chunks and harm != "none":
        train, note = next(tmp_path.glob("*/train.bin")), next(tmp_path.glob("*/tokens.json"))
        if harm == "half a chunk":
            with open(train, "ab") as file: file.write(b"\1\0\2")
        else: kept = 0
        if harm == "short file": os.truncate(train, train.stat().st_size - 2)
        if harm == "empty note": note.write_bytes(b"")
        if harm == "no file": train.unlink()
    tok = Stopped(total - kept)  # enough for what is left, and no more
    again = tokenize(texts, tok, tmp_path, progress=False)
    assert np.array_equal(again.train, whole.train) and np.array_equal(again.val, whole.val)
    assert tok.left == 0


BIG = """
    import sys, threading, time
    sys.path.insert(0, {here!r})
    import datasets
    datasets.disable_progress_bars()
    from gpt_nb.data import load_texts, tokenize
    from test_data import Letters
    def private():
        lines = open("/proc/self/status")
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3
    import datasets, torch, pyarrow
    class Fast(Letters):
        def encode_batch(self, texts): return [[1] * t.count(" ") for t in texts]
    list(load_texts({small!r})), tokenize(["a b", "c d"], Fast(), progress=False)
    base, peak, stop = private(), 0, False
    def watch():
        global peak
        while not stop: peak = max(peak, private()); time.sleep(0.005)
    thread = threading.Thread(target=watch); thread.start()
    tokens = tokenize(load_texts({big!r}), Fast(), {folder!r}, progress=False)
    stop = True; thread.join()
    print(len(tokens.train) + len(tokens.val), peak - base)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads private memory from /proc")
def test_a_large_text_never_sits_in_memory(tmp_path):
    block = "".join(f"line {i} of a text that is long enough.\n\n" for i in range(25_000))
    with open(tmp_path / "big.txt", "w") as f:
        for i in range(200_000_000 // len(block) + 1): f.write(f"{i}\n{block}")
    (tmp_path / "small.txt").write_text("small")
    paths = dict(here=Path(__file__).parent, small=tmp_path / "small.txt",
                 big=f"{tmp_path}/big.txt@1.5", folder=tmp_path / "c")
    code = textwrap.dedent(BIG.format(**{name: str(path) for name, path in paths.items()}))
    env = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "hf")}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert out.returncode == 0, out.stderr
    n, grown = map(float, out.stdout.split())
    assert n > 50e6 and grown < 120, f"{grown:.0f} MB for 200 MB of text"


# ---------------------------------------------------------------- several corpora

words_of = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=8)


@quick
@given(st.lists(st.tuples(words_of, st.sampled_from([0.3, 1, 2, 2.5])), min_size=1, max_size=4))
def test_a_mix_is_read_by_its_weights_and_validates_each_document_once(corpora):
    "No document stands on both sides, whichever corpora hold it and however often."
    parts, weights = zip(*corpora)
    if len({text for part in parts for text in part}) < 3: return
    mix = Mix(parts, weights)
    tokens = tokenize(mix, Letters(), val=0.4, progress=False)
    train, val = documents(tokens.train), documents(tokens.val)
    assert not set(train) & set(val) and train and val
    assert set(train + val) <= set(mix)
    for text in set(val):
        assert val.count(text) == next(part.count(text) for part in parts if text in part)
    for text in set(train):
        most = sum(part.count(text) * np.ceil(w) for part, w in corpora)
        least = sum(part.count(text) * np.floor(w) for part, w in corpora)
        assert least <= train.count(text) <= most
    if all(w >= 1 for w in weights): assert set(train + val) == set(mix)


def test_a_fraction_is_that_share_of_the_characters():
    one, other = some_texts(400), [f"other {text}" for text in some_texts(300, 1)]
    whole = tokenize(Mix([one, other]), Letters(), progress=False)
    half = tokenize(Mix([one, other], [2.5, 0.5]), Letters(), progress=False)
    assert np.array_equal(whole.val, half.val)
    sizes = [sum(len(t) for t in documents(tokens.train) if t.startswith("other ") == is_other)
             for tokens in (whole, half) for is_other in (False, True)]
    assert abs(sizes[2] / sizes[0] - 2.5) < 0.01 and abs(sizes[3] / sizes[1] - 0.5) < 0.01


def test_a_lone_document_beside_others_is_cut_in_two():
    book = "".join(f"part {i} of the book.\n\n" for i in range(100))
    many = some_texts(50)
    for weight, times in ((1, 1), (3, 3), (0.5, 1)):
        tokens = tokenize(Mix([many, [book]], [1, weight]), Letters(), progress=False)
        train, val = documents(tokens.train), documents(tokens.val)
        heads = [text for text in train if text.startswith("part 0 ")]
        assert len(heads) == times and val.count(split_document(book, 0.1)[1]) == 1
        assert abs(len(heads[0]) / len(book) - 0.9 * min(weight, 1)) < 0.02
    twice = tokenize(Mix([[book], [*many, book]]), Letters(), progress=False)   # not alone: whole
    assert (documents(twice.train) + documents(twice.val)).count(book) in (1, 2)
    both = tokenize(Mix([[book], [book, ""]], [1, 2]), Letters(), progress=False)
    assert documents(both.train) == [split_document(book, 0.1)[0]] * 3
    assert documents(both.val) == [split_document(book, 0.1)[1]]
    line = tokenize(Mix([["one line"], [book]]), Letters(), progress=False)
    assert "one line" in documents(line.train)


@pytest.mark.parametrize("chunks", [1, 4, 8])
def test_a_mix_goes_on_after_a_kill(tmp_path, monkeypatch, chunks):
    monkeypatch.setattr(data, "_CHUNK", 400)
    book = "".join(f"part {i} of the book.\n\n" for i in range(30))
    mix = Mix([some_texts(60), [book]], [2.5, 3])
    whole = tokenize(mix, Letters(), progress=False)
    with pytest.raises(KeyboardInterrupt): tokenize(mix, Stopped(chunks), tmp_path, progress=False)
    again = tokenize(mix, Letters(), tmp_path, progress=False)
    assert np.array_equal(again.train, whole.train) and np.array_equal(again.val, whole.val)


def test_weights_have_arrays_of_their_own(tmp_path):
    one, other, tok = some_texts(50), some_texts(50, 1), Letters()
    name = lambda texts: tokenize(texts, tok, tmp_path, progress=False).folder.name
    assert name(one + other) == name(Mix([one, other])) == name(Mix([one, other], [1.0, 1.0]))
    weights = [None, (2, 1), (1, 2), (0.5, 1), (0.75, 1), (3, 1)]
    assert len({name(Mix([one, other], w)) for w in weights}) == len(weights)
    assert name(Mix([one, other], [2, 1])) == name(Mix([one, other], [2.0, 1.0]))


@pytest.mark.parametrize("parts, weights, error, message", [
    ([["a"]], [1001], ValueError, "weight 1001.0: .* at most 1000"),
    ([["a"]], [0], ValueError, "weight 0.0"), ([["a"]], [float("nan")], ValueError, "weight nan"),
    ([["a"]], [1, 2], ValueError, "1 corpora and 2 weights"), ([], None, ValueError, "0 corpora"),
    (["abc"], None, TypeError, "a corpus is a str"), ([Mix([["a"]])], None, TypeError, "is a Mix"),
])
def test_mixes_that_make_no_sense(parts, weights, error, message):
    with pytest.raises(error, match=message): Mix(parts, weights)


@quick
@given(st.lists(st.lists(st.integers(), max_size=5), min_size=1, max_size=4), st.integers(-25, 25))
def test_a_mix_behaves_like_a_list(parts, i):
    mix, whole = Mix(parts), sum(parts, [])
    assert list(mix) == whole and len(mix) == len(whole) and mix[i:] == whole[i:]
    if -len(whole) <= i < len(whole): assert mix[i] == whole[i]
    else:
        with pytest.raises(IndexError): mix[i]


# ---------------------------------------------------------------- Batches

some_end = st.sampled_from([None, END])


@quick
@given(lengths_of, st.integers(1, 8), st.integers(0, 5), some_end, st.integers(0, 40))
def test_a_batch_is_a_pure_function_of_seed_and_step(lengths, size, seed, end_id, step):
    ids, context = stream(lengths), 12 if end_id == END and sum(lengths) + len(lengths) > 13 else 2
    one, other = (Batches(ids, size, context, seed, end_id=end_id) for _ in range(2))
    for s in (3, 0, step + 7): other[s]
    np.random.seed(step), torch.manual_seed(step)
    assert all(torch.equal(a, b) for a, b in zip(one[step], other[step]))
    x, y = one[step]
    assert x.dtype == y.dtype == torch.int64 and x.shape == y.shape
    assert x.shape[0] == size and x.shape[1] <= context
    assert torch.equal(x[:, 1:][y[:, 1:] != -100], y[:, :-1][y[:, 1:] != -100])  # y is x, one on


@quick
@given(lengths_of, st.integers(1, 4), st.sampled_from([1, 2, 3, 4]), st.booleans(),
       st.integers(0, 30))
def test_the_ranks_share_one_batch(lengths, per_rank, world, whole, step):
    ids = stream(lengths)
    context, end_id = (13, END) if whole else (3, None)
    if len(ids) <= context: return
    make = lambda **kw: Batches(ids, per_rank * world, context, 7, end_id=end_id, **kw)[step]
    x, y = make()
    for rank in range(world):
        mine = make(rank=rank, world=world)
        assert torch.equal(mine[0], x[rank::world]) and torch.equal(mine[1], y[rank::world])


@quick
@given(lengths_of, st.integers(1, 70), st.integers(0, 9))
def test_an_epoch_visits_every_document_once(lengths, size, seed):
    ids = stream(lengths)
    if len(ids) <= 13: return
    batches = Batches(ids, size, 13, seed, end_id=END)
    n = len(lengths)
    rows = [tuple(x[x != END].tolist()) for s in range(3 * n // size + 2) for x in batches[s][0]]
    ends = np.flatnonzero(ids == END)
    whole = sorted(tuple(ids[a + 1:b].tolist()) for a, b in zip(ends, ends[1:]))
    for e in range(3): assert sorted(rows[e * n:(e + 1) * n]) == whole


@quick
@given(lengths_of, st.integers(1, 5))
def test_rows_are_whole_documents(lengths, size):
    ids = stream(lengths)
    if len(ids) <= 13: return
    for step in range(4):
        x, y = Batches(ids, size, 13, end_id=END)[step]
        length = (y != -100).sum(1)
        assert length.max() == x.shape[1]
        assert (x[:, 0] == END).all() and (y[range(size), length - 1] == END).all()
        behind = torch.arange(x.shape[1]) >= length[:, None]
        assert (x[behind] == END).all() and (y[behind] == -100).all()
        assert ((y == END).sum(1) == 1).all()


@quick
@given(st.integers(2, 200), st.integers(1, 20), st.integers(1, 6), st.integers(0, 9))
def test_windows_of_an_epoch_do_not_overlap(n, context, size, seed):
    if n <= context: return
    batches = Batches(np.arange(n), size, context, seed)
    steps = range(batches.rows // size)
    starts = [int(start) for step in steps for start in batches[step][0][:, 0]]
    assert not set(np.diff(sorted(starts)).tolist()) & set(range(context))
    assert batches.rows * context >= n - 1 - 2 * context


def test_bucketing_wastes_little_and_shuffles():
    rng = np.random.default_rng(0)
    batches = Batches(stream(rng.integers(20, 60, 5000)), 32, 64, end_id=END)
    waste = np.mean([(batches[s][1] == -100).float().mean().item() for s in range(100)])
    assert waste < 0.05
    widths = [batches[s][0].shape[1] for s in range(100)]
    assert abs(np.corrcoef(widths[:-1], widths[1:])[0, 1]) < 0.4
    assert not torch.equal(batches[0][0], batches[157][0])


def test_a_batch_takes_well_under_a_millisecond():
    rng = np.random.default_rng(0)
    ids = stream(rng.integers(20, 60, 20_000))
    for batches in (Batches(ids, 32, 64, end_id=END), Batches(ids, 32, 64)):
        batches[0]
        times = []
        for s in range(50):
            start = time.perf_counter()
            batches[s]
            times.append(time.perf_counter() - start)
        assert np.median(times) < 1e-3


def test_too_short_for_one_context():
    for end_id in (None, END):
        says = "has 10 tokens and one row needs 11 .*smaller context"
        with pytest.raises(ValueError, match=says):
            Batches(stream([8]), 2, 10, end_id=end_id)
    assert Batches(stream([8]), 2, 9)[5][0].shape == (2, 9)


@pytest.mark.parametrize("change, error, message", [
    (dict(batch_size=0), ValueError, "batch_size=0"),
    (dict(context=0), ValueError, "context=0"),
    (dict(world=2, rank=2), ValueError, "rank=2"),
    (dict(world=3), ValueError, "batch_size=4 does not divide among 3"),
    (dict(vocab_size=20), ValueError, "id 49 is outside the vocabulary of 20"),
    (dict(ids=np.zeros((5, 5), int)), ValueError, r"shape \(5, 5\)"),
    (dict(ids=np.zeros(50)), TypeError, "float64"),
    (dict(ids=np.array([-1] * 50), vocab_size=9), ValueError, "id -1"),
])
def test_bad_batches(change, error, message):
    arguments = dict(ids=np.arange(50), batch_size=4, context=8) | change
    with pytest.raises(error, match=message): Batches(**arguments)


def test_negative_step():
    with pytest.raises(IndexError, match="step -1"): Batches(np.arange(50), 4, 8)[-1]


# ---------------------------------------------------------------- windows

@quick
@given(lengths_of, st.integers(1, 30), st.integers(1, 9), some_end, st.integers(0, 5),
       st.integers(0, 5))
def test_windows_score_each_token_but_the_first_once(lengths, context, size, end_id, cut_head,
                                                     cut_tail):
    ids = stream(lengths)[cut_head:]
    ids = ids[:len(ids) - cut_tail]
    if len(ids) < 2: return
    def rows(every):
        read = windows(ids, context, end_id, size, every)
        return [a[b != -100].tolist() for x, y in read for a, b in zip(x, y)]

    assert all(rows(every) == rows(1)[::every] for every in (2, 3, 99))
    pairs, seen = [], []
    for x, y in windows(ids, context, end_id, batch_size=size):
        assert x.shape == y.shape and x.shape[0] <= size and x.shape[1] <= context
        seen += y[y != -100].tolist()
        pairs += list(zip(x[y != -100].tolist(), y[y != -100].tolist()))
    assert sorted(seen) == sorted(ids[1:].tolist())
    assert sorted(pairs) == sorted(zip(ids[:-1].tolist(), ids[1:].tolist()))


def test_windows_of_whole_documents():
    x, y = next(windows(stream([2, 4, 3]), 5, END))
    assert x.tolist() == [[0, 1, 2, 0, 0], [0, 7, 8, 9, 0], [0, 3, 4, 5, 6]]
    assert y.tolist() == [[1, 2, 0, -100, -100], [7, 8, 9, 0, -100], [3, 4, 5, 6, 0]]
    x, _ = list(windows(stream([2, 4, 3]), 4, END))[0]
    assert len(x) == 3   # one does not fit: windows of 4
    with pytest.raises(ValueError, match="1 tokens"): windows(np.zeros(1, int), 4)
    with pytest.raises(ValueError, match="context=0"): windows(stream([2, 4, 3]), 0)
    with pytest.raises(ValueError, match="every=0"): windows(stream([2, 4, 3]), 4, every=0)


# ---------------------------------------------------------------- the module

def test_imports_are_light():
    code = ("import sys, gpt_nb.data; heavy = 'datasets', 'transformers', 'matplotlib', 'pandas'; "
            "sys.exit(any(name in sys.modules for name in heavy))")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_many_stories_are_told_once_and_kept(monkeypatch):
    from gpt_nb.tales import Tales
    monkeypatch.setattr(data, "_QUICK", 5)
    told = Tales("en", 1).texts(20, seed=2)
    assert list(load_texts("tales", n_stories=20, seed=2)) == told
    monkeypatch.setattr(Tales, "texts", lambda *args, **kw: 1 / 0)
    kept = load_texts("tales", n_stories=20, seed=2)
    assert list(kept) == told and len(kept) == 20 and kept[3:5] == told[3:5]


def test_any_step_first():
    one, other = (Batches(np.arange(999), 4, 8)[10**9][0] for _ in range(2))
    assert torch.equal(one, other)
