"""Every reader under damaged and hostile files. Each gets a few hundred; with FUZZ=100000 in the
environment each gets so many, goes on where it was stopped, and nbs/results/fuzz.json is written.
Below stands, by name, what once did not hold."""
import gzip
import json
import os
import shutil
import tempfile
import time
from copy import deepcopy
from dataclasses import asdict
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import readers
from filelock import FileLock
from fuzzing import CHUNK, SECONDS, Report, run_chunk
from readers import CACHED, DOCUMENTS, READERS

from gpt_nb import checkpoint, data
from gpt_nb.adapters import load_adapter
from gpt_nb.chat import template_of
from gpt_nb.checkpoint import load_tokenizer, read_json
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.tokenizer import BPETokenizer, cut, cutter

MANY = int(os.environ.get("FUZZ", 0))          # inputs for each reader; 0: a few
RESULTS = Path(__file__).parent.parent / "nbs" / "results" / "fuzz.json"
KEPT = os.environ.get("FUZZ_KEEP")             # a folder that gets the inputs of faults


def change(name: str, how) -> dict:
    "Let `how` change what is recorded of a reader; the file is whole at any time."
    with FileLock(Path(tempfile.gettempdir()) / "gpt_nb-fuzz.lock"):
        held = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        row = held.setdefault(name, asdict(Report()) | dict(chunks=0, mended=[]))
        how(row)
        part = RESULTS.with_suffix(".part")
        part.write_text(json.dumps(held, indent=1, sort_keys=True) + "\n")
        os.replace(part, RESULTS)
    return row


def record(row: dict, found: Report) -> None:
    "Add what came of one more chunk."
    total = Report(**{key: row[key] for key in asdict(found)})
    total.add(found)
    row |= {key: round(x, 2) if isinstance(x, float) else x for key, x in asdict(total).items()}
    row["chunks"] += 1


def settle(row: dict, still: list) -> None:
    "Faults that are found no more, where they were found, are mended."
    kinds = {what for *_, what in still}
    row["mended"] += [what for *_, what in row["faults"] if what not in kinds]
    row["faults"] = still


def fuzz_in_full(name: str) -> Report:
    "Chunk after chunk, from the first that is not recorded."
    row = change(name, lambda row: row.setdefault("mended", []))
    chunks = sorted({chunk for chunk, *_ in row["faults"]})
    still = [fault for chunk in chunks for fault in run_chunk(name, chunk, CHUNK, KEPT).faults]
    row = change(name, lambda row: settle(row, still))
    while row["inputs"] < MANY:
        found = run_chunk(name, row["chunks"], CHUNK, KEPT)
        row = change(name, lambda row: record(row, found))
    return Report(**{key: row[key] for key in asdict(Report())})


@pytest.mark.parametrize("name", READERS)
def test_every_input_gives_an_answer_or_a_clear_error(name):
    if name == "page" and shutil.which("node") is None: pytest.skip("no node (install nodejs)")
    if MANY: found = fuzz_in_full(name)
    else:
        found = Report()
        for chunk in (0, 1): found.add(run_chunk(name, chunk, 50, KEPT))
        assert found.inputs >= 90      # hypothesis draws none twice, and may run out of them
    assert not found.faults, found.faults
    assert 0 < found.answers < found.inputs or name == "cache"
    assert found.slowest < SECONDS and found.megabytes < 1024


def test_whole_files_are_read():
    for name, reader in READERS.items():
        if name in ("page", "template"): continue    # these want a process of their own
        for files in reader.files():
            with readers.written(files) as folder: reader.right(reader.read(folder), folder)


# ------------------------------------------------------------------------------ JSON, in one place

def refused(read, *words: str, error=ValueError) -> str:
    "The error of a reader: one line with these words, and at once."
    start = time.process_time()
    with pytest.raises(error) as caught: read()
    said = str(caught.value)
    assert time.process_time() - start < 5 and len(said.splitlines()) == 1 and len(said) < 1000
    for word in words: assert word in said, said
    return said


def test_an_error_that_quotes_a_file_stays_in_one_line(tmp_path):
    GPT(GPTConfig("qwen3", 270, 16, n_layer=1, n_head=2, d_model=8)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8")) | {"a\x85\x1eb": 1}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    refused(lambda: GPT.from_pretrained(tmp_path), "not supported for qwen3", r"a\u0085\u001eb")
    tok = BPETokenizer.train(["ab ab"], 260)
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(tok.spec | dict(version="1\x1e\u2028")), encoding="utf-8")
    refused(lambda: load_tokenizer(tmp_path), "Unknown tokenizer version")


def test_a_huge_json_file_is_refused_by_its_size(tmp_path):
    with open(tmp_path / "tokenizer.json", "wb") as file: file.truncate(3 * 2**30)   # all holes
    refused(lambda: load_tokenizer(tmp_path), str(tmp_path), "3,221,225,472 bytes", "get it again")


@pytest.mark.parametrize("text, words", [
    ('{"a": 1, "b": 2, "a": 3}', "'a' stands twice"),
    ('{"x": {"a": 1, "a": 1}}', "'a' stands twice"),
    ("[" * 100_000, "nested too deep"), (b'{"a": "\xff"}', "not UTF-8 text (byte 0xff at 7)"),
    ("{" + "".join(f'"{i}":0,' for i in range(100_000)) + '"5":0}', "'5' stands twice")])
def test_json_that_readers_differ_in_is_refused(text, words, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(lambda: read_json(path), str(path), words)


def test_a_template_is_named_where_it_is_damaged(tmp_path):
    CACHED.save(tmp_path)
    template = tmp_path / "chat_template.jinja"
    template.write_bytes(b"\xff{{ messages }}")
    refused(lambda: load_tokenizer(tmp_path), str(template), "not UTF-8")
    template.write_bytes(b"x" * 2**21)
    refused(lambda: load_tokenizer(tmp_path), str(template), "at most 1,048,576")


@pytest.mark.parametrize("held", [
    [1], [None, {}], [{"name": ["default"]}], [{"name": {}}], "", 3, {}])
def test_a_list_of_templates_that_is_none(held):
    tok = BPETokenizer.train(DOCUMENTS, 258)
    tok.config["chat_template"] = held
    refused(lambda: template_of(tok), "no chat template")


# ------------------------------------------------------------------------------------------ bombs

def test_a_config_of_a_million_billion_parameters():
    refused(lambda: GPTConfig("llama", 2**24, 16, 1000, 1024, 2**20), "parameters",
            "at most 10,000,000,000,000")
    GPTConfig("llama", 128_256, 131_072, 126, 128, 16_384, 8, d_ff=53_248)   # Llama 3.1 405B


def test_many_labels_are_read_at_once(tmp_path):
    names = {str(i): f"label {i}" for i in range(100_000)}
    start = time.process_time()
    assert len(checkpoint.read_labels(dict(id2label=names))) == 100_000
    assert time.process_time() - start < 5
    twice = dict(id2label=names | {"100000": "label 7"})
    refused(lambda: checkpoint.read_labels(twice), "twice: label 7")


def test_a_header_of_a_million_names(tmp_path):
    shutil.copytree(written_model(tmp_path), tmp_path / "model")
    row = '"model.layers.%d.weight": {"dtype": "F32", "shape": [1], "data_offsets": [%d, %d]}'
    head = ("{%s}" % ", ".join(row % (i, 4 * i, 4 * i + 4) for i in range(300_000))).encode()
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(1_200_000))
    refused(lambda: GPT.from_pretrained(path.parent), str(path), "16,777,216", "several files")


def written_model(top: Path) -> Path:
    readers.tiny().save_pretrained(top / "whole")
    return top / "whole"


def added_tokens(n: int, top: Path) -> Path:
    "A tokenizer with so many added tokens."
    spec = json.loads(json.dumps(CACHED.spec))
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
    first = len(spec["model"]["vocab"])
    spec["added_tokens"] = [dict(id=first + i, content=f"<|r{i}|>", special=i % 2 == 0, **flags)
                            for i in range(n)]
    (top / "tokenizer.json").write_text(json.dumps(spec))
    return top


def test_added_tokens_without_end(tmp_path):
    refused(lambda: load_tokenizer(added_tokens(60_000, tmp_path)), str(tmp_path),
            "60,000 added tokens", "at most 32,768")
    start = time.process_time()
    tok = load_tokenizer(added_tokens(30_000, tmp_path))   # at once: nothing is done n x n times
    assert len(tok.always) == 15_000 and time.process_time() - start < 10


@pytest.mark.parametrize("pattern", ["(a|aa)+$", "(a+)+$", "(?:ab|abab)+x", r"(\w+\s?)+\."])
def test_a_pattern_that_never_ends_is_refused_where_it_is_read(pattern, tmp_path):
    spec = json.loads(json.dumps(CACHED.spec))
    spec["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    refused(lambda: load_tokenizer(tmp_path), str(tmp_path), "would never end")


def test_a_panic_of_the_library_is_an_error(capfd):
    refused(lambda: cut("a" * 60 + "!", cutter("(a|aa)+$")), "gave up", "another tokenizer")
    tok = BPETokenizer.train(["ab"], 257, split="(a|aa)+$|[\\s\\S]")
    text = ("a" * 60 + "! ") * 2000
    for read in (lambda: tok.encode(text), lambda: tok.encode_batch([text])):
        refused(read, "gave up")


def read_all(path: Path) -> list[str]:
    return list(data.read_file(str(path), data.TextColumn(None), None))


@pytest.mark.parametrize("name, row", [("a.txt.gz", b"a b\n"), ("a.jsonl.gz", b'{"text": "a"}\n'),
                                       ("a.csv.gz", b"a\n")])
def test_a_packed_file_that_holds_far_too_much(name, row, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "UNPACKED", 2**16)
    path = tmp_path / name
    path.write_bytes(gzip.compress(row * (2**18 // len(row))))
    refused(lambda: read_all(path), str(path), "100 times", "give the plain file")
    monkeypatch.undo()
    assert sum(map(len, read_all(path))) > 2**14


@pytest.mark.parametrize("name, text", [
    ("a.jsonl", '{"text": "%s"}\n'), ("a.csv", "text\n%s\n"), ("a.tsv", 'text\tb\n"%s"\t1\n')])
def test_a_record_without_end(name, text, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "RECORD", 2**16)
    path = tmp_path / name
    path.write_text(text % ("x" * 2**17))
    refused(lambda: read_all(path), str(path), "65,536", "line")
    path.write_text(text % ("x" * 2**15))
    assert len(read_all(path)[0]) >= 2**15 if name != "a.tsv" else True


def test_an_array_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "ARRAY", 2**16)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([dict(text="x" * 100)] * 1000))
    refused(lambda: read_all(path), str(path), "65,536 characters", ".jsonl")


# ---------------------------------------------------------------------------------------- parquet

def parquet(path: Path, columns: dict, **how) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq
    names, held = zip(*columns)
    pq.write_table(pa.Table.from_arrays([pa.array(x) for x in held], names), path, **how)
    return path


def test_a_parquet_file_that_holds_far_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "UNPACKED", 2**20)
    path = parquet(tmp_path / "a.parquet", [("text", ["x" * 2**23])], compression="zstd",
                   use_dictionary=False, write_statistics=False)
    refused(lambda: read_all(path), str(path), "100 times")


def test_damaged_parquet_names_the_file(tmp_path):
    whole = parquet(tmp_path / "a.parquet", [("text", ["one", "two"])]).read_bytes()
    for held in (whole[:-9], b"PAR1" + b"\xff" * 40 + whole[-20:], whole[:4], b"", b"PAR1" * 9):
        path = tmp_path / "b.parquet"
        path.write_bytes(held)
        refused(lambda: list(data.read_rows(path)), str(path))


def test_no_column_of_two_with_one_name_is_dropped(tmp_path):
    path = parquet(tmp_path / "a.parquet", [("text", ["one"]), ("text", ["two"])])
    refused(lambda: list(data.read_rows(path)), str(path), "two columns 'text'")


# ------------------------------------------------------------------------------- a cache that heals

def tokens_of(top: Path) -> list[list[int]]:
    tokens = data.tokenize(DOCUMENTS, CACHED, top, progress=False)
    return [np.array(side).tolist() for side in (tokens.train, tokens.val)]


def turned(data: bytes) -> bytes: return bytes([data[0] ^ 1]) + data[1:]


@pytest.mark.parametrize("name", ["tokens.json", "train.bin", "val.bin"])
@pytest.mark.parametrize("damage", [
    lambda held: b"", lambda held: held[:-1], turned, lambda held: b"{}", lambda held: b"[1]",
    lambda held: b"[" * 9000, lambda held: b"\xff", None], ids=range(8))
def test_a_damaged_cache_is_made_anew(name, damage, tmp_path):
    whole = tokens_of(tmp_path)
    path = next(tmp_path.glob(f"*/{name}"))
    if damage: path.write_bytes(damage(path.read_bytes()))
    else: path.unlink()
    assert tokens_of(tmp_path) == whole
    assert json.loads(next(tmp_path.glob("*/tokens.json")).read_text())["finished"]


@pytest.mark.parametrize("change", [
    dict(dtype="object"), dict(dtype="../x"), dict(train=-1), dict(train=True), dict(val=10**30),
    dict(finished=1), dict(pieces="3"), dict(sums={}), dict(sums=None), dict(extra=1)])
def test_a_note_that_says_otherwise_is_made_anew(change, tmp_path):
    whole = tokens_of(tmp_path)
    path = next(tmp_path.glob("*/tokens.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert tokens_of(tmp_path) == whole


# ----------------------------------------------------------------------------------------- adapters

@pytest.mark.parametrize("change", [
    dict(r=None), dict(r="8"), dict(rank_pattern=[1]), dict(rank_pattern={"(": 1}),
    dict(peft_type=[]), dict(lora_alpha=True), dict(rank_pattern={"q_proj": 3})])
def test_a_damaged_adapter_names_its_folder_and_changes_nothing(change, tmp_path):
    files = readers.adapter_folders()[0]
    fields = json.loads(files["adapter_config.json"]) | change
    with readers.written(files | {"adapter_config.json": json.dumps(fields).encode()}) as folder:
        model = deepcopy(readers.tiny())
        before = [name for name, _ in model.named_parameters()]
        refused(lambda: load_adapter(model, folder), str(folder))
        assert [name for name, _ in model.named_parameters()] == before
        assert all(p.requires_grad for p in model.parameters())


# ------------------------------------------------------------------------- weights of the page

@pytest.fixture(scope="module")
def engine():
    "What the page's engine says of a folder, in node."
    if shutil.which("node") is None: pytest.skip("no node (install nodejs)")
    readers.node.append(readers.start_node())
    yield readers.read_page
    process = readers.node.pop()
    process.stdin.close()
    process.wait()


@pytest.mark.parametrize("path, value", [
    (("tensors", 0, "name"), "__proto__.polluted"),
    (("tensors", 0, "name"), "constructor.prototype.polluted"),
    (("tensors", 0, "shape"), [10**9, 10**6]), (("tensors", 0, "offset"), 1),
    (("tensors", 1, "offset"), 0), (("tensors",), None), (("tokenizer", "split"), "("),
    (("config", "n_layer"), 10**9), (("config", "d_model"), 7), (("config", "n_head"), 10**9),
    (("config", "norm_eps"), None)])
def test_a_damaged_model_of_the_page_is_refused(path, value, engine):
    files = readers.page_models()[1]
    about = json.loads(files["model.json"])
    *holders, key = path
    reduce(lambda inside, name: inside[name], holders, about)[key] = value
    with readers.written(files | {"model.json": json.dumps(about).encode()}) as folder:
        refused(lambda: readers.page_is_right(engine(folder), folder), "damaged")
