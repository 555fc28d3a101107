"Examples from people's own files: what is read, what is refused, what is warned of."
import json
import warnings

import datasets
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_nb.finetuning import (as_iob2, assess, check_known, examples_of, finetune, inputs_of,
                               options_of_search, predict, search, split_examples, tune)
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.tokenizer import CharTokenizer
from gpt_nb.training import Run, TrainConfig

GOOD = [("Lovely.", "good"), ("Awful.", "bad"), ("Great.", "good"), ("Cold.", "bad")]


def pairs(examples, *names): return [tuple(e[name] for name in names) for e in examples]


def labelled(examples): return pairs(examples, "text", "label")


def quietly(*arguments, **more):
    "What is read, where nothing may be warned of."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return examples_of(*arguments, **more)


def write(path, text: str, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("text, label", [("text", "label"), ("Text", "Label"),
    ("sentence", "class"), (" Review ", "SENTIMENT"), ("文本", "标签"), ("句子", "类别"),
    ("评论", "情感"), ("x", "label"),
    ("text", "whatever")])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet", "csv.gz"])
def test_every_kind_of_table_gives_the_same(tmp_path, text, label, kind):
    table, path = pd.DataFrame(GOOD, columns=[text, label]), tmp_path / f"t.{kind}"
    if kind == "parquet": table.to_parquet(path)
    elif kind == "json": table.to_json(path, orient="records", force_ascii=False)
    elif kind == "jsonl": table.to_json(path, orient="records", lines=True)
    else: table.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    assert labelled(quietly(path, "classify")) == GOOD
    assert labelled(quietly(str(path), "classify")) == GOOD
    assert labelled(quietly(table, "classify")) == GOOD
    assert labelled(quietly(table.to_dict("records"), "classify")) == GOOD


def test_an_index_that_pandas_wrote_along_does_no_harm(tmp_path):
    pd.DataFrame(GOOD, columns=["text", "label"]).to_csv(tmp_path / "t.csv")
    assert labelled(quietly(tmp_path / "t.csv", "classify")) == GOOD


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_encodings_marks_and_line_ends(tmp_path, encoding, ends):
    path = tmp_path / "t.csv"
    lines = ["文本,标签", '"很好,真的\n好",好', "很差,差", "", "不错,好", "太咸,差", ""]
    path.write_bytes(ends.join(lines).encode(encoding))
    asked = "gb18030" if encoding == "gb18030" else None
    found = quietly(path, "classify", encoding=asked)
    expected = [("很好,真的\n好", "好"), ("很差", "差"), ("不错", "好"), ("太咸", "差")]
    assert labelled(found) == expected
    assert found[0]["where"].endswith("row 1 (line 3)") and found[1]["where"].endswith("(line 4)")
    if asked:
        with pytest.raises(ValueError, match="encoding=\"gb18030\""): examples_of(path, "classify")


@pytest.mark.parametrize("mark, head", [(";", ""), (";", "sep=;\r\n"), ("\t", ""), ("|", "")])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_what_spreadsheets_write(tmp_path, mark, head, encoding):
    lines = [f"Review{mark}Label", f'"Très bon, ""frais""\nvraiment"{mark}1,5',
             f"Froid, hélas{mark}0,5", f"Chaud{mark}1,5", f"Tard{mark}0,5", ""]
    path = write(tmp_path / "t.csv", head + "\r\n".join(lines), encoding)
    found = quietly(path, "classify", encoding="cp1252" if encoding == "cp1252" else None)
    assert labelled(found)[:2] == [('Très bon, "frais"\nvraiment', "1,5"), ("Froid, hélas", "0,5")]
    lines_before = 4 + bool(head)
    assert found[1]["where"].endswith(f"row 2 (line {lines_before})")


def test_several_files_and_a_data_set_on_disk(tmp_path):
    for name, part in (("a", GOOD[:2]), ("b", GOOD[2:])):
        pd.DataFrame(part, columns=["text", "label"]).to_csv(tmp_path / f"{name}.csv", index=False)
    a, b = tmp_path / "a.csv", tmp_path / "b.csv"
    for name in (f"{a}+{b}", tmp_path / "*.csv"):
        found = quietly(name, "classify")
        assert labelled(found) == GOOD and found[2]["where"] == f"{b}: row 1 (line 2)"
    with pytest.raises(FileNotFoundError, match="there is no file no.csv$"):
        examples_of(f"{a}+no.csv", "classify")
    with pytest.raises(ValueError, match="is a folder: name a file in it, such as .*a.csv"):
        examples_of(tmp_path, "classify")
    rows = datasets.Dataset.from_list([dict(text=t, label=kind) for t, kind in GOOD])
    datasets.DatasetDict(train=rows).save_to_disk(tmp_path / "saved")
    assert labelled(quietly(tmp_path / "saved" / "train", "classify")) == GOOD
    with pytest.raises(ValueError, match="name a file in it, such as .*saved/train"):
        examples_of(tmp_path / "saved", "classify")


def test_columns_beside_each_other():
    rows = datasets.Dataset.from_list([dict(text=t, label=kind) for t, kind in GOOD])
    assert labelled(quietly(rows[:], "classify")) == GOOD   # a slice is a dict of columns
    asked = dict(context=["A", "B"], question=["Who?", "Where?"],
                 answers=[dict(text=["Tom"]), dict(text=["Rome"])])
    assert pairs(quietly(asked, "generate"), "target") == [("Tom",), ("Rome",)]
    with pytest.raises(ValueError, match=r"not equally long: {'text': 2, 'label': 1}"):
        examples_of(dict(text=["a", "b"], label=["x"]), "classify")
    with pytest.raises(TypeError, match="has parts, .'train', 'test'.: give one, as dataset."):
        examples_of(dict(train=[dict(text="a")], test=[dict(text="b")]), "classify")
    with pytest.raises(TypeError, match=r"dataset\[0\] is int: expected a dict"):
        examples_of(pd.Series([1, 2]), "classify")


def test_numbers_of_a_dataset_are_named():
    kinds = datasets.Features(dict(sentence=datasets.Value("string"), idx=datasets.Value("int32"),
                                   label=datasets.ClassLabel(names=["negative", "positive"])))
    sst2 = datasets.Dataset.from_dict(dict(sentence=["a", "b", "c", "d", "e"], idx=[0, 1, 2, 3, 4],
                                           label=[0, 1, 1, 0, -1]), features=kinds)
    with pytest.warns(UserWarning, match=r"1 row has no label and is left out .*dataset\[4\]"):
        found = examples_of(sst2, "classify")
    assert labelled(found) == list(zip("abcd", ["negative", "positive", "positive", "negative"]))
    hidden = sst2.select([4])
    with pytest.raises(ValueError, match="none is complete: 1 row has no label"):
        examples_of(hidden, "classify")
    with pytest.raises(TypeError, match=r"has parts, \['train'\]: give one"):
        examples_of(datasets.DatasetDict(train=sst2), "classify")


def test_tnews_by_its_columns():
    rows = dict(label=["100", "104"] * 2, label_desc=["news_story", "news_finance"] * 2,
                sentence=["一", "二", "三", "四"], keywords=["", "", "", ""])
    found = quietly(datasets.Dataset.from_dict(rows), "classify")
    assert labelled(found)[1] == ("二", "news_finance")


def test_conll_2003_by_its_columns():
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    tags = datasets.Sequence(datasets.ClassLabel(names=names))
    kinds = datasets.Features(dict(id=datasets.Value("string"), pos_tags=datasets.Sequence(
        datasets.ClassLabel(names=["NN", "VB"])),
        tokens=datasets.Sequence(datasets.Value("string")), ner_tags=tags))
    rows = dict(id=["0", "1"], tokens=[["Mia", "Lee", "sat"], ["Rome"]], ner_tags=[[1, 2, 0], [3]],
                pos_tags=[[0, 0, 1], [0]])
    found = quietly(datasets.Dataset.from_dict(rows, features=kinds), "tag")
    assert pairs(found, "words", "tags") == [(["Mia", "Lee", "sat"], ["B-PER", "I-PER", "O"]),
                                             (["Rome"], ["B-LOC"])]


@pytest.mark.parametrize("names", [("context", "question", "answers"), ("文章", "问题", "答案"),
                                   ("passage", "Query", "answer")])
def test_questions_with_their_context(tmp_path, names):
    answers = [dict(text=["Tom", "to Tom"], answer_start=[3, 0]),
               dict(text=["Rome"], answer_start=[0])]
    flat = ["Tom", "Rome"]
    rows = [dict(zip(names, row)) for row in zip(["A", "B"], ["Who?", "Where?"],
                                                 answers if names[2] == "answers" else flat)]
    expected = [("A\nWho?", "Tom"), ("B\nWhere?", "Rome")]
    assert pairs(quietly(rows, "generate"), "text", "target") == expected
    lines = "\n".join(json.dumps(row) for row in rows)
    found = quietly(write(tmp_path / "q.jsonl", lines), "generate")
    assert pairs(found, "text", "target") == expected
    pd.DataFrame(rows).to_csv(tmp_path / "q.csv", index=False)   # dicts are printed there
    assert pairs(quietly(tmp_path / "q.csv", "generate"), "text", "target") == expected
    found = quietly(datasets.Dataset.from_list(rows), "generate")
    assert pairs(found, "text", "target") == expected


def test_other_pairs_of_texts():
    pair = [dict(document="long", summary="short"), dict(document="other", summary="brief")]
    found = quietly(pair, "generate")
    assert pairs(found, "text", "target") == [("long", "short"), ("other", "brief")]
    alpaca = [dict(instruction="Add.", input="1 2", output=3), dict(instruction="Sing.", input="",
                                                                   output="la")]
    found = quietly(alpaca, "generate")
    assert pairs(found, "text", "target") == [("1 2\nAdd.", "3"), ("Sing.", "la")]
    wmt = [dict(translation=dict(en="cat", zh="猫")), dict(translation=dict(en="dog", zh="狗"))]
    at = {"text": "translation.en", "target": "translation.zh"}
    assert pairs(quietly(wmt, "generate", at), "text", "target") == [("cat", "猫"), ("dog", "狗")]
    listed = [dict(input="a", output='["x", "y"]'), dict(input="b", output="{'z': 1}")]
    assert pairs(quietly(listed, "generate"), "target") == [('["x", "y"]',), ("{'z': 1}",)]
    for answers in (["x", "y"], [dict(text="x", start=1), dict(text="y")], dict(text=["x", "y"])):
        asked = [dict(question="q", answer=answers)]
        assert pairs(quietly(asked, "generate"), "target") == [("x",)]
    several = [dict(document="long", summary=["x", "y"])]   # which is meant nobody knows
    with pytest.raises(ValueError, match="stands where a text"): examples_of(several, "generate")
    unanswerable = [dict(context="c", question="q", answers=dict(text=[], answer_start=[]))]
    with pytest.raises(ValueError, match="1 row has no answers.text and is left out"):
        examples_of(unanswerable, "generate")


def test_named_columns(tmp_path):
    path = write(tmp_path / "t.csv", "v1,v2,v3\nham,Hi,x\nspam,Win!,y\nham,Bye,z\nspam,Buy!,w\n")
    with pytest.raises(ValueError, match=r"has the columns \['v1', 'v2', 'v3'\], and none is known "
                       r"to hold the text or the label: .*\(--text-column --label-column\)"):
        examples_of(path, "classify")
    found = quietly(path, "classify", {"text": "v2", "label": "v1"})
    assert labelled(found)[0] == ("Hi", "ham")
    with pytest.raises(ValueError, match=r"no column 'v9': it has \['v1', 'v2', 'v3'\]"):
        examples_of(path, "classify", {"text": "v9", "label": "v1"})
    wide = [{f"c{i}": "x" for i in range(500)}]
    with pytest.raises(ValueError, match=r"'c8'\] and 491 more, and none is known"):
        examples_of(wide, "classify")
    with pytest.raises(ValueError, match=r"classify knows \['text', 'label'\], not 'txt'"):
        examples_of(path, "classify", {"txt": "v2"})


CLASSIFY = [
    ("text,label\n", r"t.csv has no rows: it is empty, or its first line"),
    ("", r"t.csv has no rows"),
    ("text,label\nA,good\nB,good\n", r"2 rows and no label but 'good': at least two"),
    ("text,label\nA,1\nB,0\nC,1.0\n", r"row 3 \(line 4\): label '1.0' is the same number as '1'"),
    ("text,label\nA,x\nB,y\nC,z\n", r"no label stands in two rows .*column of the labels\?"),
    ("text,label\n,x\n ,y\n", r"2 rows and none is complete: 2 rows have no text and are left out"),
    ("text,label\nWendish,1.0, \nA,1\n", r"row 1 \(line 2\) has 3 values and the first line 2"),
    ("text,label,label\nA,x,y\nB,y,x\n", r"row 1 \(line 2\) has two columns 'label'"),
    ("great film,1\nbad film,0\nfine,1\n", r"the columns \['great film', '1'\].*first line gives"),
    ('text,label\n"A,x\n', r"t.csv: the row at line 2 cannot be read \(unexpected end"),
]


@pytest.mark.parametrize("text, says", CLASSIFY)
def test_a_bad_table_is_refused_with_its_place(tmp_path, text, says):
    with pytest.raises(ValueError, match=says): quietly(write(tmp_path / "t.csv", text), "classify")


@pytest.mark.parametrize("labels, says", [
    ([1, 0, "1", 0], r"dataset\[2\]: label '1' is a text, but 1 before it is a number"),
    ([True, False, 1, 0], r"dataset\[2\]: label 1 is a number, but True .* is a truth value"),
    ([b"a", b"b"] * 2, r"dataset\[0\]: b'a' stands where one label is expected"),
    (["a", "\ud800"] * 2, r"dataset\[1\]: .* lone surrogate"),
    (["a", "b", ["a"], "b"], r"dataset\[2\]: \['a'\] stands where one label is expected")])
def test_labels_that_change_type(labels, says):
    rows = [dict(text=str(i), label=label) for i, label in enumerate(labels)]
    with pytest.raises(ValueError, match=says): examples_of(rows, "classify")


def test_numbers_and_truth_values_are_names():
    def names(labels):
        rows = [dict(text=str(i), label=label) for i, label in enumerate(labels)]
        return [e["label"] for e in quietly(rows, "classify")]

    assert names([1, 0, 1.0, 0]) == ["1", "0", "1", "0"]
    assert names([True, False, True, False]) == ["True", "False", "True", "False"]
    assert names(pd.Series([1, 0, 1, 0]).to_numpy()) == ["1", "0", "1", "0"]
    assert names([-1, 1, -1.0, 1]) == ["-1", "1", "-1", "1"]   # a feeling, not a gap
    assert names(["a\n b", "c", "a b", "c"]) == ["a b", "c", "a b", "c"]   # one line
    assert names(["\u00e9", "c", "e\u0301", "c"]) == ["\u00e9", "c"] * 2
    assert names([" a", "b ", "a", "b"]) == ["a", "b", "a", "b"]
    assert names([0.5, 1.5, 0.5, 1.5]) == ["0.5", "1.5", "0.5", "1.5"]


@pytest.mark.parametrize("more, says, n", [
    ([(" \n", "good")], "1 row has no text and is left out", 4),
    ([("x", None), ("y", float("nan")), ("z", "")], "3 rows have no label and are left out", 4),
    ([("x", pd.NA)], "1 row has no label and is left out", 4),
    ([("x", "meh")], "1 row has a label that no other has, so it cannot be validated", 5),
    ([("Cold.", "good")], "1 row has the text of an earlier row with another label", 5),
    ([("x", "Good"), ("y", "Good")], "2 rows have a label that differs .* in its case alone", 6)])
def test_what_can_be_gone_on_with_is_counted(more, says, n):
    rows = [dict(text=text, label=label) for text, label in [*GOOD, *more]]
    with pytest.warns(UserWarning, match=says + r".* \(first: dataset\[4\]\)"):
        assert len(examples_of(rows, "classify")) == n


@pytest.mark.parametrize("row, says", [
    (dict(text=5, label="a"), r"dataset\[1\]: 5 stands where a text is expected"),
    (dict(text="\ud800", label="a"), r"dataset\[1\]: .* lone surrogate at character 0"),
    ("text", r"dataset\[1\] is str: expected a dict")])
def test_a_row_that_is_none(row, says):
    with pytest.raises((ValueError, TypeError), match=says):
        examples_of([dict(text="A", label="b"), row], "classify")


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file no.csv"): examples_of("no.csv", "classify")
    with pytest.raises(ValueError, match="is a folder: name a file"): examples_of(tmp_path, "tag")
    with pytest.raises(ValueError, match="is no table: expected a file that ends in"):
        examples_of(write(tmp_path / "a.txt", "text"), "classify")
    with pytest.raises(ValueError, match="task='sort': expected one of classify, tag, generate"):
        examples_of([], "sort")
    with pytest.raises(ValueError, match="has no rows"): examples_of([], "tag")
    with pytest.raises(TypeError, match="data set is int"): examples_of(5, "tag")


def test_the_hub_is_asked_for_a_part(monkeypatch):
    asked, rows = [], dict(sentence=list("abcd"), label=list("xyxy"))

    def load(*name, split):
        asked.append((*name, split))
        return datasets.Dataset.from_dict(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert labelled(quietly("hub:org/name/config:test", "classify"))[:2] == [("a", "x"), ("b", "y")]
    quietly("hub:org/name", "classify")
    assert asked == [("org/name", "config", "test"), ("org/name", "train")]


TAGGED = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
New NNP B-NP B-LOC
York NNP I-NP I-LOC

Peter NNP B-NP B-PER
"""


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("gap", [" ", "\t", "  "])
def test_conll_files(tmp_path, ends, mark, gap):
    path = tmp_path / "t.conll"
    path.write_bytes(TAGGED.replace(" ", gap).replace("\n", ends).encode(mark))
    found = quietly(path, "tag")
    assert pairs(found, "words", "tags") == [
        (["EU", "rejects", "New", "York"], ["B-ORG", "O", "B-LOC", "I-LOC"]),
        (["Peter"], ["B-PER"])]
    assert [e["where"].rpartition(" ")[2] for e in found] == ["3", "8"]


def test_a_word_of_a_conll_file_may_be_any_sign(tmp_path):
    odd = "\x97 O\n\x85 O\n\u2028 O\n\xa0 B-X\n# B-X\n"
    found = quietly(write(tmp_path / "t.txt", odd), "tag")
    assert found[0]["words"] == ["\x97", "\x85", "\u2028", "\xa0", "#"]


def test_words_that_are_numbered(tmp_path):
    text = "# sent_id = 1\n1 EU NNP B-ORG\n2 sees VBZ O\n\n1 7 CD O\n"
    found = quietly(write(tmp_path / "t.conllu", text), "tag")
    assert pairs(found, "words") == [(["EU", "sees"],), (["7"],)]
    full = "1-2\tdu\t" + "_\t" * 7 + "_\n1\tde\tde\tADP\t" + "_\t" * 5 + "_\n2\tle\tle\tDET\t" \
        + "_\t" * 5 + "SpaceAfter=No\n2.1\tx\t" + "_\t" * 7 + "_\n"
    found = quietly(write(tmp_path / "v.conllu", full), "tag")
    assert pairs(found, "words", "tags") == [(["de", "le"], ["ADP", "DET"])]
    assert quietly(write(tmp_path / "u.conll", "1 CD O\n\n1 CD B-N\n"), "tag")[0]["words"] == ["1"]


@pytest.mark.parametrize("text, says", [
    ("w O\n" * 101 + "v B-X", "t.iob is one sentence of 102 words: put a blank line"),
    ("EU B-ORG\nsees\n", r"t.iob: line 2: 'sees' is not a word and its tag"),
    ("EU B-ORG\n O\n", r"t.iob: line 2: 'O' is not a word and its tag"),
    ("EU B-ORG\nsees 0\n", r"sentence at line 1: word 'sees' has the tag '0': expected O, or B-"),
    ("EU O\nsees O\n", r"all 2 words have the tag 'O'"),
    ("-DOCSTART- O\n\n", r"t.iob has no rows")])
def test_a_bad_conll_file(tmp_path, text, says):
    with pytest.raises(ValueError, match=says): examples_of(write(tmp_path / "t.iob", text), "tag")


def tag_rows(*sentences): return [dict(words=[str(i) for i in range(len(tags.split()))],
                                      tags=tags.split()) for tags in sentences]


@pytest.mark.parametrize("sentences, scheme, expected", [
    (["I-A I-A B-A O I-B"], "IOB1", ["B-A I-A B-A O B-B"]),
    (["S-A O B-A E-A", "B-A I-A E-A"], "BIOES", ["B-A O B-A I-A", "B-A I-A I-A"]),
    (["U-A O B-A L-A"], "BIOES", ["B-A O B-A I-A"]),
    (["S-A O B-A M-A E-A"], "BIOES", ["B-A O B-A I-A I-A"])])
def test_schemes_become_iob2_and_it_is_said(sentences, scheme, expected):
    with pytest.warns(UserWarning, match=f"its {scheme} tags were turned into IOB2"):
        found = examples_of(tag_rows(*sentences), "tag")
    assert [" ".join(e["tags"]) for e in found] == expected


def test_tags_that_break_iob2_are_counted():
    with pytest.warns(UserWarning, match=r"1 row has an I- that follows nothing .*dataset\[1\]"):
        found = examples_of(tag_rows("B-A I-A O", "O I-A I-B"), "tag")
    assert found[1]["tags"] == ["O", "B-A", "B-B"]


def test_iob2_and_other_tags_stay_as_they_are():
    assert quietly(tag_rows("B-A I-A B-A O B-B"), "tag")[0]["tags"] == "B-A I-A B-A O B-B".split()
    assert quietly(tag_rows("B_A I_A O"), "tag")[0]["tags"] == ["B-A", "I-A", "O"]
    assert quietly(tag_rows("NOUN VERB NOUN"), "tag")[0]["tags"] == ["NOUN", "VERB", "NOUN"]


@given(st.lists(st.sampled_from(["O", "B-A", "B-B", "I-A", "I-B"]), max_size=12))
def test_iob2_is_valid_and_turning_twice_changes_nothing(tags):
    new = as_iob2(tags)
    assert as_iob2(new) == new and len(new) == len(tags)
    for before, tag in zip(["O", *new], new):
        assert tag[0] != "I" or before[2:] == tag[2:]
    assert [t[1:] for t in new] == [t[1:] for t in tags]   # kinds stay


MING = "B-PER I-PER O B-LOC I-LOC"


@pytest.mark.parametrize("words, tags", [
    ("小明在北京", MING), ("['小','明','在','北','京']", MING),
    ("小 明 在 北 京", '["B-PER", "I-PER", "O", "B-LOC", "I-LOC"]')])
def test_words_in_a_table(tmp_path, words, tags):
    pd.DataFrame([dict(句子=words, 标注=tags)]).to_csv(tmp_path / "t.csv", index=False)
    found = quietly(tmp_path / "t.csv", "tag")
    assert pairs(found, "words", "tags") == [(list("小明在北京"), MING.split())]


def test_words_and_tags_must_be_as_many():
    rows = [*tag_rows("B-A O"), dict(words=["a", "b"], tags=["O", "O", "O"])]
    with pytest.raises(ValueError, match=r"dataset\[1\]: 2 words and 3 tags: each word needs one"):
        examples_of(rows, "tag")
    rows = [*tag_rows("B-A O"), dict(words=["a", ""], tags=["O", "O"])]
    with pytest.raises(ValueError, match=r"dataset\[1\]: word '' with tag 'O': one of them"):
        examples_of(rows, "tag")
    printed = [dict(tokens="['EU' 'rejects']", ner_tags="['B-ORG' 'O']")]
    with pytest.raises(ValueError, match="an array as numpy prints it"): examples_of(printed, "tag")
    with pytest.raises(ValueError, match="5 stands where a list of words"):
        examples_of([dict(words=5, tags="O")], "tag")


@pytest.mark.parametrize("number", ["sentence_id", "Sentence #"])
@pytest.mark.parametrize("filled", [True, False])
def test_a_table_with_a_word_in_each_row(tmp_path, number, filled):
    ids = ["Sentence: 1", "Sentence: 1" if filled else None, "Sentence: 2"]
    table = pd.DataFrame({number: ids, "Word": ["Mia", "sat", "Rome"], "POS": ["N", "V", "N"],
                          "Tag": ["B-per", "O", "B-geo"]})
    table.to_csv(tmp_path / "t.csv", index=False)
    found = quietly(tmp_path / "t.csv", "tag", {"tags": "Tag"})
    expected = [(["Mia", "sat"], ["B-per", "O"]), (["Rome"], ["B-geo"])]
    assert pairs(found, "words", "tags") == expected
    table[["Word", "Tag"]].to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"row 1 \(line 2\): each row holds one word"):
        examples_of(tmp_path / "t.csv", "tag")


def test_examples_are_checked_once(tmp_path):
    rows = [dict(text=text, label=label) for text, label in [*GOOD, ("", "good")]]
    with pytest.warns(UserWarning): found = examples_of(rows, "classify")
    assert quietly(found, "classify") is found
    assert labelled(quietly(list(found), "classify")) == GOOD
    assert quietly(list(found)[:3:2] + list(found)[1:2] * 2, "classify")[1]["where"] == "dataset[2]"


def test_a_label_that_was_never_seen():
    rows = quietly([dict(text=text, label=label) for text, label in GOOD], "classify")
    check_known(rows, ["bad", "good"])
    with pytest.raises(ValueError, match=r"dataset\[0\]: the label 'good' was never seen in "
                       "training: known are bad, fine"):
        check_known(rows, ["bad", "fine"])
    with pytest.raises(ValueError, match="the label 'B-A' was never seen"):
        check_known(quietly(tag_rows("O B-A"), "tag"), ["O"])


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), min_size=30, max_size=90),
       st.sampled_from([0.1, 0.2, 0.5]), st.integers(0, 5))
def test_no_text_is_in_both_parts_and_each_label_has_its_share(rows, val, seed):
    examples = [dict(text=str(i), label=label) for i, label in rows]
    groups = {}
    for e in examples: groups.setdefault(e["text"], e["label"])
    counts = {label: list(groups.values()).count(label) for label in groups.values()}
    try: train, test = split_examples(examples, val, seed)
    except ValueError as error:
        assert "none is left" in str(error) and sum(n for n in counts.values() if n > 1) * val < 1
        return
    assert not {e["text"] for e in train} & {e["text"] for e in test}
    assert sorted(map(str, train + test)) == sorted(map(str, examples))
    assert (train, test) == split_examples(examples, val, seed)
    for label, n in counts.items():
        chosen = len({e["text"] for e in test if groups[e["text"]] == label})
        if n > 1: assert abs(chosen - n * val) < 1
        else: assert chosen == 0


def test_another_seed_gives_another_split():
    examples = [dict(words=[str(i)], tags=["O"]) for i in range(100)]
    parts = [split_examples(examples, 0.1, seed)[1] for seed in range(3)]
    assert all(len(part) == 10 for part in parts) and parts[0] != parts[1] != parts[2]
    with pytest.raises(ValueError, match="val=0.9: expected a share"): split_examples(examples, 0.9)
    with pytest.raises(ValueError, match="none is left to validate"): split_examples(examples[:1])


def test_columns_without_a_name_are_no_columns(tmp_path):
    text = "v1,v2,,,\nham,Hi é,,,\nspam,Win,,,\nham,Bye,,,\nspam,Buy,,,\n"
    path = write(tmp_path / "spam.csv", text, "latin-1")
    found = quietly(path, "classify", {"text": "v2", "label": "v1"}, "latin-1")
    assert labelled(found)[0] == ("Hi é", "ham")
    numbered = pd.DataFrame(GOOD)
    assert labelled(quietly(numbered, "classify", {"text": 0, "label": 1})) == GOOD


def test_tensors_of_a_dataset_are_numbers():
    kinds = datasets.Features(dict(text=datasets.Value("string"),
                                   label=datasets.ClassLabel(names=["no", "yes"])))
    rows = datasets.Dataset.from_dict(dict(text=list("abcd"), label=[0, 1, 0, 1]), features=kinds)
    assert labelled(quietly(rows.with_format("torch"), "classify"))[1] == ("b", "yes")


@pytest.fixture(scope="module")
def small():
    "A model that knows nothing, a tokenizer, and guests whose words tell what they thought."
    texts = [f"The {dish} was {word}." for dish in "soup rice fish bread cake tea".split()
             for word in "lovely fresh cold burnt".split()]
    rows = [dict(text=t, label="good" if "lovely" in t or "fresh" in t else "bad") for t in texts]
    tok = CharTokenizer.train(texts)
    torch.manual_seed(0)
    return GPT(GPTConfig("qwen3", tok.vocab_size, 40, 2, 2, 16)), tok, rows


def test_equal_seeds_give_equal_searches(small):
    model, tok, rows = small
    before = {name: w.clone() for name, w in model.state_dict().items()}

    def tried(seed): return tune(model, rows, "classify", tok, trials=5, val=0.25, seed=seed)

    (run, table), (again, same), (_, other) = tried(0), tried(0), tried(1)
    assert table == same and table[1:] != other[1:]
    for name, w in run.model.state_dict().items(): assert w.equal(again.model.state_dict()[name])
    assert table[0]["lr"] == 5e-3 and table[0]["learn"] == "all"   # the usual settings come first
    done = [row for row in table if row["state"] == "done"]
    assert run.score == max(row["score"] for row in done)
    assert run.val_loss == min(r["val_loss"] for r in done if r["score"] == run.score)
    for name, w in model.state_dict().items(): assert w.equal(before[name])


def test_what_is_given_is_not_searched(small):
    model, tok, rows = small
    run, table = tune(model, rows, "classify", tok, trials=2, val=0.25, epochs=1, learn="head")
    assert list(table[0]) == ["trial", "lr", "score", "val_loss", "state"]
    assert run.options["learn"] == "head"
    with pytest.raises(ValueError, match="nothing is left to search"):
        tune(model, rows, "classify", tok, epochs=1, learn="head", lr=1e-3)
    with pytest.raises(ValueError, match="trials=0"): tune(model, rows, "classify", tok, trials=0)


def run_of(losses: list[float], watch=None, out=None, **how) -> Run:
    "A run whose validation losses are these."
    model = GPT(GPTConfig("qwen3", 20, 8, 1, 1, 8))
    rows = [dict(step=i, tokens=i, loss=1.0, val_loss=loss, lr=0.1, tokens_per_second=1.0)
            for i, loss in enumerate(losses)]
    for row in rows: watch(row)
    return Run(model, None, TrainConfig(steps=1), rows, out, val_loss=losses[-1])


def test_what_falls_behind_is_ended_and_what_diverges_is_no_best():
    def make(trial, **how):
        trial.suggest_float("x", 0, 1)
        if trial.number == 1: raise FloatingPointError("the loss is nan")
        return run_of([50 if trial.number > 5 else 9 - trial.number] * 9, **how)

    run, table = search(make, 8)
    states = [row["state"] for row in table]
    assert states == ["done", "diverged"] + ["done"] * 4 + ["ended early"] * 2
    assert run.val_loss == 4 == min(row["val_loss"] for row in table if row["state"] == "done")

    def hopeless(trial, **how): raise FloatingPointError

    with pytest.raises(FloatingPointError, match="none of 2 trials came to an end"):
        search(hopeless, 2)


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(small, tmp_path):
    model, tok, rows = small
    calls, whole = [], tune(model, rows, "classify", tok, trials=5, val=0.25, out=tmp_path / "a")

    def tell(row):
        calls.append(row)
        if len(calls) == 2: raise KeyboardInterrupt

    how = dict(val=0.25, out=tmp_path / "b")
    with pytest.raises(KeyboardInterrupt): tune(model, rows, "classify", tok, 5, tell=tell, **how)
    assert options_of_search(tmp_path / "b") is None and (tmp_path / "b" / "trials.log").is_file()
    with pytest.raises(FileExistsError): tune(model, rows, "classify", tok, 5, **how)
    run, table = tune(model, rows, "classify", tok, 5, resume=True, **how)
    assert table == whole[1] and run.folder == tmp_path / "b"
    same = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert same[0] == same[1]
    assert predict(run, ["The pie was cold."]) == predict(whole[0], ["The pie was cold."])
    more, longer = tune(model, rows, "classify", tok, 6, resume=True, **how)
    assert longer[:5] == table and more.score >= run.score
    with pytest.raises(ValueError, match="a search with seed 0, not 1"):
        tune(model, rows, "classify", tok, 6, resume=True, seed=1, **how)
    with pytest.raises(FileNotFoundError, match="no search to resume"):
        tune(model, rows, "classify", tok, 6, resume=True, out=tmp_path / "c")
    (tmp_path / "b" / "trials.log").write_text("no journal\n")
    with pytest.raises(ValueError, match="trials.log is damaged"):
        tune(model, rows, "classify", tok, 6, resume=True, **how)


def test_a_text_that_is_too_long_is_counted_with_its_place(small):
    model, tok, rows = small
    long = [dict(text="The cake was cold. " * 99, label="bad"), *rows]
    with pytest.warns(UserWarning, match=r"1 example is longer than 160 tokens: words at the "
                      r"beginning are not read \(first: dataset\[0\]\)"):
        finetune(model, long, "classify", tok, val=rows, epochs=1, show=False)


def test_texts_that_are_trained_on_tell_nothing(small):
    model, tok, rows = small
    held = [dict(text="The pie was cold.", label="bad"), *rows[:2]]
    with pytest.warns(UserWarning, match=r"2 rows have a text to validate on that are trained "
                      r"on as well \(first: dataset\[1\]\)"):
        finetune(model, rows, "classify", tok, val=held, epochs=1, show=False)


def test_a_label_of_the_validation_set_must_be_known(small):
    model, tok, rows = small
    with pytest.raises(ValueError, match=r"dataset\[1\]: the label 'meh' was never seen"):
        finetune(model, rows, "classify", tok, val=[*rows[:1], dict(text="So so.", label="meh")])
    run = finetune(model, rows, "classify", tok, epochs=1, val=rows[:1], show=False)
    result = assess(run, rows)
    assert result["examples"] == 24 and result["commonest label"] == 0.5
    said = predict(run, [row["text"] for row in rows])
    right = [a == row["label"] for a, row in zip(said, rows)]
    assert abs(result["accuracy"] - sum(right) / 24) < 1e-9
    with pytest.raises(ValueError, match="'meh' was never seen"):
        assess(run, [dict(text="So so.", label="meh")])


def test_inputs_are_in_order_and_none_is_left_out(tmp_path):
    table = write(tmp_path / "t.csv", "n,sentence\n1,a\n2,\n3,c\n")
    with pytest.warns(UserWarning, match=r"1 row has nothing to answer .*row 2 \(line 3\)"):
        assert pairs(inputs_of(table, "classify"), "text") == [("a",), ("",), ("c",)]
    bare = write(tmp_path / "bare.csv", "The soup was cold\nNice\n")   # is that a name?
    with pytest.warns(UserWarning, match="first line, 'The soup was cold', is taken for the name"):
        assert pairs(inputs_of(bare, "classify"), "text") == [("Nice",)]
    asked = write(tmp_path / "q.jsonl", '{"context": "C", "question": "Q?"}\n')
    assert pairs(inputs_of(asked, "generate"), "text") == [("C\nQ?",)]
    words = write(tmp_path / "t.conll", "Mia B-PER\nsat O\n\nRome B-LOC\n")
    assert pairs(inputs_of(words, "tag"), "words") == [(["Mia", "sat"],), (["Rome"],)]


def test_examples_of_another_task_are_no_examples():
    found = quietly([dict(text=text, label=label) for text, label in GOOD], "classify")
    with pytest.raises(ValueError, match="each row holds one word"): examples_of(found, "tag")


def test_a_validation_set_may_hold_one_label(small):
    model, tok, rows = small
    run, table = tune(model, rows, "classify", tok, trials=1, val=[rows[0]], epochs=1)
    assert len(table) == 1 and run.options["examples"] == len(rows)


def test_parts_of_speech_are_scored_by_accuracy(small):
    model, tok, _ = small
    rows = [dict(words=[dish, "was", "cold"], tags=["NOUN", "VERB", "ADJ"])
            for dish in "soup rice fish bread cake tea".split()]
    run = finetune(model, rows, "tag", tok, epochs=60, val=0.3, show=False)
    assert run.score == 1 and assess(run, rows)["accuracy"] == 1


def test_two_searches_in_one_folder_are_one_too_many(small, tmp_path):
    "The second removed the trials of the first while they trained."
    from gpt_nb.finetuning import search
    seen = []
    def nested(trial, **how):
        with pytest.raises(BlockingIOError, match="is being written by another run"):
            search(nested, 1, out=tmp_path / "search", resume=True)
        seen.append(sorted(path.name for path in (tmp_path / "search").iterdir()))
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): search(nested, 1, out=tmp_path / "search")
    assert seen == [[".lock", "trials.log"]] and not (tmp_path / "search" / ".lock").exists()
