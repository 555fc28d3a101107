"""What is fuzzed: each reader with whole files to begin with, and what a right answer is."""
import contextlib
import csv
import gzip
import io
import json
import signal
import subprocess
import sys
import tempfile
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from fuzzing import Reader, broken, broken_files
from hypothesis import strategies as st
from safetensors.torch import save

from gpt_nb import adapters, chat, checkpoint, data, finetuning, training
from gpt_nb.checkpoint import load_tokenizer, save_tokenizer
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.page import write_page_model
from gpt_nb.pretrained import export_gguf
from gpt_nb.tales import Tales
from gpt_nb.tokenizer import END, BPETokenizer, CharTokenizer, WordTokenizer

torch.set_num_threads(1)
STORIES = Tales().texts(3)


def folder_of(write) -> dict[str, bytes]:
    "The files that `write` puts into a folder."
    with tempfile.TemporaryDirectory() as top:
        write(Path(top))
        paths = sorted(path for path in Path(top).rglob("*") if path.is_file())
        return {str(path.relative_to(top)): path.read_bytes() for path in paths}


@contextlib.contextmanager
def written(files: dict[str, bytes]):
    "A folder of these files, for a while."
    with tempfile.TemporaryDirectory() as top:
        for name, held in files.items():
            path = Path(top).resolve() / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(held)
        yield Path(top).resolve()


def as_json(x) -> bytes: return json.dumps(x).encode()


# --------------------------------------------------------------------------------------- tokenizer

TEXT = "Once upon a time, 今天 12 <|end|> \n\n Mia's cafe\u0301"


@cache
def tokenizers() -> list[dict[str, bytes]]:
    "Of bytes, characters and words; one as Qwen's files are, with tokens of two kinds added."
    toks = [BPETokenizer.train(STORIES, 270), CharTokenizer.train(STORIES),
            WordTokenizer.train(STORIES, 40)]
    wholes = [folder_of(tok.save) for tok in toks]
    spec = json.loads(wholes[0]["tokenizer.json"])
    spec["normalizer"] = {"type": "NFC"}
    flags = dict(single_word=False, lstrip=False, rstrip=False)
    n = len(spec["model"]["vocab"])
    spec["added_tokens"] = [dict(id=n + i, content=name, normalized=i > 1, special=i < 2, **flags)
                            for i, name in enumerate([END, "<|im_end|>", "<think>", "caf\u00e9"])]
    steps = spec["pre_tokenizer"]["pretokenizers"]
    steps.insert(0, dict(type="Digits", individual_digits=True))
    ids = {"<|im_end|>": dict(id="<|im_end|>", ids=[n + 1], tokens=["<|im_end|>"])}
    first = dict(SpecialToken=dict(id="<|im_end|>", type_id=0))
    texts = [dict(Sequence=dict(id=part, type_id=0)) for part in "AB"]
    spec["post_processor"] = dict(type="TemplateProcessing", single=[first, texts[0]],
                                  pair=[first, *texts], special_tokens=ids)
    about = dict(eos_token=dict(content="<|im_end|>"), chat_template=chat.CHATML)
    return [*wholes, {"tokenizer.json": as_json(spec), "tokenizer_config.json": as_json(about),
                      "chat_template.jinja": chat.CHATML.encode()}]


def ids_are_right(tok, folder) -> None:
    "A tokenizer that opens encodes as the library does with the same file, and decodes again."
    try: ids = tok.encode(TEXT)
    except ValueError: return        # a character that it does not know
    assert all(0 <= i < tok.vocab_size for i in ids), "an id outside the vocabulary"
    assert isinstance(tok.decode(ids), str)
    if not isinstance(tok, BPETokenizer): return
    assert tok.engine.encode(TEXT, add_special_tokens=False).ids == ids, "the library has others"


# ------------------------------------------------------------------------------ config and weights

@cache
def tiny(arch: str = "qwen3", tied: bool = False) -> GPT:
    "A model of a few numbers."
    torch.manual_seed(0)
    return GPT(GPTConfig(arch, 270, 16, 1, 2, 8, d_ff=8, tie_embeddings=tied)).eval()


@cache
def checkpoints() -> list[dict[str, bytes]]:
    "One of each family."
    return [folder_of(tiny(arch, arch == "gpt2").save_pretrained)
            for arch in ("gpt2", "llama", "qwen2", "qwen3")]


def model_is_right(model: GPT, folder: Path) -> None:
    "A model that opens is the one that its file describes."
    assert model.n_params < 10**9, "an enormous model"
    model(torch.tensor([[0]]))
    fields = checkpoint.config_to_hub(model.config)
    assert checkpoint.hub_to_config(fields) == model.config, "another config when written again"


def header_of(data: bytes) -> tuple[dict, bytes]:
    "The two parts of a safetensors file."
    n = int.from_bytes(data[:8], "little")
    return json.loads(data[8:8 + n]), data[8 + n:]


@st.composite
def broken_weights(draw, wholes):
    "A folder whose weights say other things of themselves."
    files = dict(draw(st.sampled_from(wholes)))
    header, numbers = header_of(files["model.safetensors"])
    head = draw(broken(header)).encode("utf-8", "surrogatepass")
    length = draw(st.sampled_from([len(head)] * 6 + [0, 1, 2**31, 2**63, 2**64 - 1, len(head) + 1]))
    files["model.safetensors"] = length.to_bytes(8, "little") + head + numbers
    return files


@cache
def shards() -> list[dict[str, bytes]]:
    "A checkpoint in two files."
    files = dict(checkpoints()[3])
    tensors = sorted(tiny().state_dict().items())
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    parts = dict(tensors[:5]), dict(tensors[5:])
    del files["model.safetensors"]
    for name, part in zip(names, parts): files[name] = save(part)
    where = {key: name for name, part in zip(names, parts) for key in part}
    files["model.safetensors.index.json"] = as_json(dict(metadata={}, weight_map=where))
    return [files]


# ---------------------------------------------------------------------------------------- adapters

@cache
def adapter_folders() -> list[dict[str, bytes]]:
    "One of each kind."
    add = [adapters.add_lora, adapters.add_adalora, adapters.add_ia3, adapters.add_bottleneck,
           adapters.add_prompt, adapters.add_prefix]
    wholes = []
    for make in add:
        model = deepcopy(tiny())
        make(model)
        wholes.append(folder_of(lambda top: adapters.save_adapter(model, top)))
    return wholes


def open_adapter(folder: Path) -> GPT:
    return adapters.load_adapter(deepcopy(tiny()), folder)


def adapted(model: GPT, folder: Path) -> None:
    model(torch.tensor([[0, 1]]))
    assert adapters.adapter_names(model) == ["default"] or len(adapters.adapter_names(model)) == 1


# ------------------------------------------------------------------------------------- run folders

@cache
def runs() -> list[dict[str, bytes]]:
    "A run of three steps."
    tok = BPETokenizer.train(STORIES, 270)
    tokens = data.tokenize(Tales().texts(30), tok, progress=False)
    config = training.TrainConfig(steps=3, batch_size=2, log_every=1, device="cpu",
                                  optimizer="adamw")
    model = GPT(GPTConfig("qwen3", tok.vocab_size, 80, 1, 1, 8, d_ff=8))

    def write(top):
        training.train(model, tokens, config, tok, top / "run", show=False)
    files = folder_of(write)
    wanted = ("training.json", "log.jsonl", "state/state.safetensors", "config.json",
              "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    return [{name: files[f"run/{name}"] for name in wanted}]


def open_run(folder: Path):
    run = training.Run.open(folder)
    return run, run.history, training.read_state(folder / "state")


@st.composite
def broken_runs(draw, wholes):
    "A run whose record, log or state says something else."
    files = dict(draw(st.sampled_from(wholes)))
    what = draw(st.sampled_from(["training.json", "log.jsonl", "state/state.safetensors"]))
    if what == "training.json": text = draw(broken(json.loads(files[what])))
    if what == "log.jsonl":
        lines = files[what].decode().splitlines()
        lines[draw(st.integers(0, len(lines) - 1))] = draw(broken(json.loads(lines[0])))
        text = "\n".join(lines) + "\n"
    if what == "state/state.safetensors":
        header, numbers = header_of(files[what])
        info = json.loads(header["__metadata__"]["info"])
        header["__metadata__"]["info"] = draw(broken(info))
        if draw(st.booleans()): text = draw(broken(header))
        else: text = json.dumps(header)
        head = text.encode("utf-8", "surrogatepass")
        files[what] = len(head).to_bytes(8, "little") + head + numbers
        return files
    files[what] = text.encode("utf-8", "surrogatepass")
    return files


# ------------------------------------------------------------------------------------------ tables

CELLS = st.text(max_size=12) | st.sampled_from([
    "", " ", "a,b", 'say "x"', "two\nlines", "a\r\nb", "\t", "sep=;", "今天", "🙂", "<|end|>",
    "\u2028", "'", "\\", "=1+1", "\ufeff", "x" * 300, "\0", "\r"])
NAMES = st.lists(st.sampled_from(["text", "label", "a b", "id", "今", "Text"]), min_size=1,
                 max_size=3, unique=True)


@st.composite
def tables(draw) -> tuple[list[str], list[list[str]]]:
    "Names of columns, and rows of texts."
    names = draw(NAMES)
    return names, draw(st.lists(st.lists(CELLS, min_size=len(names), max_size=len(names)),
                                max_size=6))


def as_csv(names, rows, mark=",") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=mark, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([names, *rows])
    return out.getvalue().encode("utf-8", "surrogatepass")


def as_lines(names, rows) -> bytes:
    lines = [json.dumps(dict(zip(names, row)), ensure_ascii=False) for row in rows]
    return "\n".join(lines).encode("utf-8", "surrogatepass") + b"\n"


def as_parquet(names, rows) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq
    sink = io.BytesIO()
    columns = {}
    for i, name in enumerate(names): columns[name] = pa.array([row[i] for row in rows], pa.string())
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


ROWS = ["text", "label"], [[story, label] for story, label in zip(STORIES, "aba")]


def truth_of(names, rows) -> bytes:
    "What a reader must give, in a file beside the table."
    return json.dumps([[[name, value] for name, value in zip(names, row)] for row in rows]).encode()


def table_reader(ending: str, write, more=()) -> Reader:
    "A reader of whole tables of some form; those drawn come with the truth."
    file = f"table.{ending}"

    @st.composite
    def structures(draw, wholes):
        names, rows = draw(tables())
        if draw(st.integers(0, 3)) == 0 and ending in ("jsonl", "json"):
            rows_broken = [draw(broken(dict(zip(names, row)))) for row in rows]
            joined = "[%s]" if ending == "json" else "%s\n"
            text = joined % ("," if ending == "json" else "\n").join(rows_broken)
            return {file: text.encode("utf-8", "surrogatepass")}
        return {file: write(names, rows), "truth": truth_of(names, rows)}

    def read(folder): return [row for _, row in data.read_rows(folder / file)]

    def right(answer, folder):
        path = folder / file
        if (folder / "truth").is_file():
            rows = json.loads((folder / "truth").read_text())
            truth = [[tuple(pair) for pair in row] for row in rows]
            blank = [all(not value.strip() for _, value in row) for row in truth]
            if ending in ("csv", "tsv"):      # a line of nothing is no row, where one column is all
                truth = [row for row, no in zip(truth, blank) if not no or len(row) > 1]
            assert [list(map(tuple, row)) for row in answer] == truth, "other rows than written"
        elif ending == "jsonl":
            text = path.read_bytes().decode("utf-8-sig")
            lines = [line for line in io.StringIO(text, newline="") if line.strip()]
            assert len(lines) == len(answer), "a line was dropped"
            for line, row in zip(lines, answer):
                pairs = json.loads(line, object_pairs_hook=tuple)
                assert len(pairs) == len(row), "a value was dropped"

    def files():
        whole = {file: write(*ROWS)}
        return [whole] if not more else [whole, *more]
    return Reader(files, read, structures, right)


def packed_json(names, rows) -> bytes:
    return json.dumps([dict(zip(names, row)) for row in rows]).encode()


# ------------------------------------------------------------------------------------------- texts

CODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030", "big5",
           "shift_jis", "euc_kr", "cp1251", "latin-1", "cp1252", "koi8-r"]


@cache
def text_files() -> list[dict[str, bytes]]:
    zh, en = "\n".join(Tales("zh").texts(4)), "\n<|end|>\n".join(STORIES)
    wholes = []
    for text in (zh, en):
        for coding in CODINGS:
            encoded = text.encode(coding, "ignore")
            wholes.append({"book.txt": encoded, "coding": coding.encode()})
    packed = {"book.txt.gz": gzip.compress(en.encode()), "coding": b"utf-8"}
    return [*wholes, packed, packed]


@st.composite
def drawn_texts(draw, wholes):
    lines = st.text(max_size=20) | st.sampled_from(
        ["<|end|>", "<|endoftext|>", "\n\n", "今天天气很好", "Привет", "x" * 200])
    text = draw(st.lists(lines, max_size=8).map("\n".join))
    coding = draw(st.sampled_from(CODINGS))
    packed = draw(st.booleans())
    encoded = text.encode(coding, "ignore")
    return {"book.txt" + ".gz" * packed: gzip.compress(encoded, 1) if packed else encoded,
            "coding": coding.encode(), "truth": text.encode("utf-8", "surrogatepass")}


def read_book(folder: Path) -> list[str]:
    "The file, by the encoding that stands in another where that is one."
    path, said = next(folder.glob("book*"), folder / "book.txt"), folder / "coding"
    if not path.is_file(): raise FileNotFoundError(str(path))
    coding = said.read_bytes().decode("ascii", "replace") if said.is_file() else "utf-8"
    if coding not in CODINGS or coding in ("utf-8", "utf-8-sig"): coding = None
    return list(data.read_file(str(path), data.TextColumn(None), coding))


def text_is_right(answer: list[str], folder: Path) -> None:
    "All that was written, but for lines that part documents; other bytes may be other characters."
    if not (folder / "truth").is_file(): return
    text = (folder / "truth").read_bytes().decode("utf-8", "surrogatepass")
    coding = (folder / "coding").read_text()
    text = text.encode(coding, "ignore").decode(coding)      # what the encoding can say of it
    if coding not in ("utf-8", "utf-8-sig") and answer != [text]:
        raw = text.encode(coding)
        try: guessed = raw.decode("utf-8")
        except UnicodeDecodeError: guessed = None
        if guessed is not None: return                       # it is UTF-8 as well
    if text.startswith("\ufeff") or coding.startswith(("utf-16", "utf-32")): return
    known = [part for part in data._SEPARATOR.split(text)]
    assert "".join("".join(answer).split()) == "".join("".join(known).split()), "text was dropped"


# ---------------------------------------------------------------------------------- chat templates

MESSAGES = [dict(role="system", content="A story."), dict(role="user", content="Who? <|im_end|>"),
            dict(role="assistant", content="Mia.")]
LOOPY = ["{% for i in range(10**9) %}x{% endfor %}", "{{ 'x' * 10**10 }}",
         "{{ ''.__class__.__mro__ }}",
         "{{ messages.append(1) }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
         "{{ 1/0 }}", "{% include '/etc/passwd' %}", "{% import 'os' as os %}",
         "{{ cycler.__init__.__globals__ }}", "{{ raise_exception('no\\nway') }}",
         "{{ messages[99].content }}", "{{ [1]|map('x')|list }}", "{{ range(10**8)|list|length }}",
         "{{ lipsum(n=1000) }}", "{%- endfor %}"]
REAL = [chat.CHATML,
        "{% for m in messages %}{{ '[' + m.role + '] ' + m.content|trim }}{{ eos_token }}"
        "{% endfor %}",
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message.role == 'assistant' %}"
        "{{ message.content }}{% generation %}{% endgeneration %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"]


@cache
def templates() -> list[dict[str, bytes]]:
    whole = tokenizers()[3]
    about = json.loads(whole["tokenizer_config.json"])
    del about["chat_template"]
    return [{"tokenizer.json": whole["tokenizer.json"], "tokenizer_config.json": as_json(about),
             "chat_template.jinja": text.encode()} for text in REAL]


@st.composite
def broken_templates(draw, wholes):
    files = dict(draw(st.sampled_from(wholes)))
    text = files["chat_template.jinja"].decode()
    for _ in range(draw(st.integers(0, 3))):
        place, end = sorted([draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))])
        bits = ["{{", "}}", "{%", "%}", "'", "message", "|upper", "<|im_end|>"]
        put = draw(st.sampled_from(LOOPY + bits) | st.text(max_size=5))
        text = text[:place] + put + text[min(end, place + 20):]
    if draw(st.integers(0, 3)) == 0:
        del files["chat_template.jinja"]
        about = json.loads(files["tokenizer_config.json"]) | dict(chat_template=[
            dict(name="default", template=text), dict(name="tool_use", template="x")])
        files["tokenizer_config.json"] = draw(broken(about)).encode("utf-8", "surrogatepass")
    else: files["chat_template.jinja"] = text.encode("utf-8", "surrogatepass")
    return files


class Here:
    "What fills templates in, in this process: the same code without a process for each template."
    def __init__(self, template: str):
        self.template = template
        self.stop = SimpleNamespace(alive=True)
        self("")

    def __call__(self, told):
        lines = "\n".join(map(json.dumps, [self.template, told] if told else [self.template]))
        kept, sys.stdin, sys.stdout = (sys.stdin, sys.stdout), io.StringIO(lines), io.StringIO()
        signal.signal(signal.SIGALRM, too_long)
        signal.setitimer(signal.ITIMER_REAL, 2)
        try:
            chat.fill_in()
            said = json.loads(sys.stdout.getvalue().splitlines()[-1])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            sys.stdin, sys.stdout = kept
        if "error" in said: raise ValueError(f"the chat template: {said['error']}")
        return said["text"]


def too_long(*_): raise TimeoutError("more than 2 seconds")


def prepare(name: str) -> None:
    "In a child of the fuzzer, before it is watched."
    chat.filler_of = Here
    if name == "page": node.append(start_node())


def fill_template(folder: Path):
    tok = load_tokenizer(folder)
    return tok, chat.apply_chat_template(tok, MESSAGES, add_generation_prompt=True)


def talk_is_right(answer, folder) -> None:
    tok, ids = answer
    assert all(0 <= i < tok.vocab_size for i in ids)


# --------------------------------------------------------------------------------- a tokens' cache

CACHED = BPETokenizer.train(STORIES, 270)
DOCUMENTS = [*STORIES, "one more", "and another", "今天"]


@cache
def caches() -> list[dict[str, bytes]]:
    def write(top): data.tokenize(DOCUMENTS, CACHED, top, progress=False)
    return [{name: held for name, held in folder_of(write).items() if not name.endswith("lock")}]


@st.composite
def broken_caches(draw, wholes):
    files = dict(draw(st.sampled_from(wholes)))
    name = next(name for name in files if name.endswith("tokens.json"))
    files[name] = draw(broken(json.loads(files[name]))).encode("utf-8", "surrogatepass")
    return files


@cache
def true_tokens():
    return [ids.tolist() for ids in sides(data.tokenize(DOCUMENTS, CACHED, progress=False))]


def sides(tokens): return np.array(tokens.train), np.array(tokens.val)


def heal(folder: Path): return data.tokenize(DOCUMENTS, CACHED, folder, progress=False)


def cache_is_right(tokens, folder) -> None:
    "Whatever lay in the cache, the tokens are those of the texts."
    assert [ids.tolist() for ids in sides(tokens)] == true_tokens(), "other tokens"


# ------------------------------------------------------------------------------- generation config

@cache
def generations() -> list[dict[str, bytes]]:
    return [{"generation_config.json": checkpoints()[3]["generation_config.json"],
             "config.json": checkpoints()[3]["config.json"]}]


def write_tokenizer(folder: Path): return save_tokenizer(CACHED, folder, None)


def generation_is_right(answer, folder) -> None:
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            assert json.loads((folder / name).read_text())["pad_token_id"] == CACHED.end_id


# ----------------------------------------------------------------------------------- examples (15)

@cache
def examples() -> list[dict[str, bytes]]:
    rows = [dict(text=story, label=label) for story, label in zip(STORIES, "aba")]
    tags = [dict(words=["Mia", "sang"], tags=["B-PER", "O"])]
    talks = [dict(messages=MESSAGES)]
    found = dict(text=["Mia"], answer_start=[0])
    spans = [dict(question="Who?", context=STORIES[0], answers=found)]
    conll = b"-DOCSTART- O\n\nMia B-PER\nsang O\n\nLeo B-PER\nran O\n"
    found = [{"rows.jsonl": b"\n".join(map(as_json, some))} for some in (rows, tags, talks, spans)]
    return [*found, {"rows.conll": conll}, {"rows.csv": as_csv(*ROWS)}]


@st.composite
def broken_examples(draw, wholes):
    files = dict(draw(st.sampled_from(wholes)))
    (name, held), = files.items()
    if name != "rows.jsonl": return files
    rows = [draw(broken(json.loads(line))) for line in held.split(b"\n")]
    return {name: "\n".join(rows).encode("utf-8", "surrogatepass")}


def read_examples(folder: Path):
    path = next(iter(sorted(folder.iterdir())), folder / "rows.csv")
    return finetuning.rows_of(str(path), "tag" if path.suffix == ".conll" else "classify", None)


# ------------------------------------------------------------------------- GPT weights of the page

ENGINE = Path(data.__file__).parent / "web" / "engine.js"
NODE = """
import {readFileSync} from "node:fs";
import {createInterface} from "node:readline";
import * as E from "./engine.mjs";
function answer(folder) {
  try {
    const text = readFileSync(folder + "/model.json", "utf8");
    let about;
    try { about = JSON.parse(text); } catch { return {code: "damaged", said: "no JSON"}; }
    if (about?.format !== E.FORMAT) return {code: "version", said: "another format"};
    const bytes = readFileSync(folder + "/weights.bin");
    const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
    const model = E.makeModel(about, buffer), session = new E.Session(model);
    let ids = null;
    try { ids = model.tok.encode("Mia has a kite. 12"); } catch (e) { if (!e.code) throw e; }
    const logits = session.feed(1);
    if (Object.prototype.polluted !== undefined || ({}).weight) return {raw: "polluted"};
    return {n: logits.length, finite: logits.every(Number.isFinite), ids};
  } catch (e) {
    return e.code && e.code !== "ENOENT" ? {code: e.code, said: e.message} : {raw: String(e)};
  }
}
const lines = createInterface({input: process.stdin});
lines.on("line", (folder) => console.log(JSON.stringify(answer(folder))));
"""
node = []                            # the process, started before the reader is watched


@cache
def page_models() -> list[dict[str, bytes]]:
    tok = BPETokenizer.train(STORIES, 270)
    return [folder_of(lambda top: write_page_model(tiny(arch, arch == "gpt2"), tok, top, dtype))
            for arch, dtype in (("gpt2", "int8"), ("qwen3", "bfloat16"), ("llama", "float32"))]


def start_node() -> subprocess.Popen:
    top = Path(tempfile.mkdtemp(prefix="fuzz-node-"))
    (top / "engine.mjs").write_bytes(ENGINE.read_bytes())
    (top / "run.mjs").write_text(NODE)
    command = ["node", "--max-old-space-size=512", str(top / "run.mjs")]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def read_page(folder: Path) -> dict:
    "What the engine of the page says, in node."
    for name in ("model.json", "weights.bin"):
        if not (folder / name).is_file(): raise FileNotFoundError(str(folder / name))
    process = node[0]
    process.stdin.write(f"{folder}\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        node[0] = start_node()
        raise RuntimeError("node died")
    said = json.loads(line)
    if "code" in said: raise ValueError(f"{folder}: {said['said']}")
    return said


def page_is_right(said: dict, folder: Path) -> None:
    assert "raw" not in said, said["raw"]
    assert said["finite"] and said["n"] > 0, "logits that are no numbers"


# ------------------------------------------------------------------------------------------- GGUF

SHAPE = dict(arch="qwen3", n_layer=1, heads=[2, 1], d_head=4, d_ff=8, context=16, tied=False,
             bfloat16=False, names=[END, "<|im_end|>"], eps=1e-6, theta=10000.0)


@st.composite
def shapes(draw, wholes):
    "A model and a tokenizer to be written."
    names = draw(st.lists(st.text(min_size=1, max_size=8), max_size=3, unique=True))
    changes = dict(arch=draw(st.sampled_from(["gpt2", "llama", "qwen2", "qwen3"])),
                   n_layer=draw(st.integers(1, 3)), d_head=2 * draw(st.integers(1, 4)),
                   heads=draw(st.sampled_from([[1, 1], [2, 1], [4, 2]])), tied=draw(st.booleans()),
                   d_ff=draw(st.integers(1, 20)), context=draw(st.integers(1, 10**6)),
                   bfloat16=draw(st.booleans()), names=[END, *(n for n in names if n != END)],
                   eps=draw(st.floats(1e-12, 1)), theta=draw(st.floats(1, 1e12)))
    return {"shape.json": json.dumps(changes).encode()}


def write_gguf(folder: Path):
    "A model written as GGUF, and what the library gguf reads of it."
    import gguf
    x = json.loads((folder / "shape.json").read_bytes())
    plain = x["arch"] == "gpt2"
    heads = [x["heads"][0]] * 2 if plain else x["heads"]
    more = dict(norm_eps=x["eps"], tie_embeddings=x["tied"]) | ({} if plain else dict(
        n_kv_head=heads[1], rope_theta=x["theta"]))
    try:
        tok = BPETokenizer(MERGES, special_tokens=x["names"])
        config = GPTConfig(x["arch"], tok.vocab_size, x["context"] if not plain else 16,
                           x["n_layer"], heads[0], heads[0] * x["d_head"], d_ff=x["d_ff"], **more)
    except ValueError as e: raise ValueError(f"{folder}: {e}") from e
    model = GPT(config).to(torch.bfloat16 if x["bfloat16"] else torch.float32)
    export_gguf(model, tok, folder / "model.gguf")
    return model, tok, gguf.GGUFReader(folder / "model.gguf")


def gguf_is_right(answer, folder) -> None:
    "The library reads the numbers and the tokens that were written."
    model, tok, read = answer
    tokens = read.fields["tokenizer.ggml.tokens"].contents()
    for name, i in tok.special_tokens.items(): assert tokens[i] == name, "another token"
    assert len(tokens) == model.config.vocab_size
    found = {t.name: t for t in read.tensors}
    stored = found["token_embd.weight"]
    weight = model.model.embed_tokens.weight.detach()
    numbers = torch.from_numpy(stored.data.copy())
    if weight.dtype == torch.bfloat16: numbers = numbers.view(torch.bfloat16)
    assert torch.equal(numbers.view(weight.shape), weight), "other numbers"
    layers = {name.split(".")[1] for name in found if name.startswith("blk.")}
    assert len(layers) == model.config.n_layer


MERGES = BPETokenizer.train(STORIES, 270).merges

READERS = dict(
    tokenizer=Reader(tokenizers, load_tokenizer,
                     broken_files("tokenizer.json", "tokenizer.json", "tokenizer_config.json"),
                     ids_are_right),
    config=Reader(checkpoints, GPT.from_pretrained, broken_files("config.json"), model_is_right),
    safetensors=Reader(checkpoints, GPT.from_pretrained, broken_weights, model_is_right),
    index=Reader(shards, GPT.from_pretrained, broken_files("model.safetensors.index.json"),
                 model_is_right),
    run=Reader(runs, open_run, broken_runs),
    adapter=Reader(adapter_folders, open_adapter, broken_files("adapter_config.json"), adapted),
    generation=Reader(generations, write_tokenizer, broken_files("generation_config.json"),
                      generation_is_right),
    jsonl=table_reader("jsonl", as_lines),
    json=table_reader("json", packed_json),
    csv=table_reader("csv", as_csv),
    tsv=table_reader("tsv", lambda names, rows: as_csv(names, rows, "\t")),
    parquet=table_reader("parquet", as_parquet),
    text=Reader(text_files, read_book, drawn_texts, text_is_right),
    template=Reader(templates, fill_template, broken_templates, talk_is_right,
                    named=False),    # of a tokenizer that was opened long before
    cache=Reader(caches, heal, broken_caches, cache_is_right),
    examples=Reader(examples, read_examples, broken_examples),
    gguf=Reader(lambda: [{"shape.json": as_json(SHAPE)}], write_gguf, shapes, gguf_is_right,
                bytes_too=False),
    page=Reader(page_models, read_page, broken_files("model.json"), page_is_right),
)
