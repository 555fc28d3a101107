"""Training a tokenizer, encoding with it, and reading batches, beside `tokenizers`, `tiktoken` and,
where it is installed, `rustbpe`.

    python benchmarks/run.py tokenizer

The text is 10 MB that every machine has: stories of the small world in English and in Chinese,
Python's manual and the source of its library. On one thread processor seconds count, on all cores
the clock.
"""
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from frame import Options, in_turn, row

SIZES = {"tales": 2_400_000, "tales-zh": 1_000_000, "pydocs": 2_000_000, "pycode": 4_600_000}
VOCABULARIES = (4096, 32_768)


def text() -> list[str]:
    "10 MB of documents in an order that is always the same."
    from gpt_nb.data import load_texts
    documents = []
    for name, size in SIZES.items():
        for document in load_texts(name, n_stories=10_000):
            size -= len(document.encode())
            if size < 0: break
            documents.append(document)
    random.Random(0).shuffle(documents)
    return documents


def in_tokenizers(texts: list[str], vocab_size: int):
    "A tokenizer trained by the library `tokenizers`, with the same alphabet and the same cuts."
    from gpt_nb.tokenizer import GPT4_SPLIT, cutter
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    engine, to_bytes = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(False, use_regex=False)
    engine.pre_tokenizer = pre_tokenizers.Sequence([cutter(GPT4_SPLIT), to_bytes])
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False,
                                  initial_alphabet=to_bytes.alphabet())
    engine.train_from_iterator(texts, trainer)
    return engine


def in_rustbpe(texts: list[str], vocab_size: int):
    "The same by `rustbpe`, or None where it is not installed."
    try: import rustbpe
    except ImportError: return None
    engine = rustbpe.Tokenizer()
    engine.train_from_iterator(iter(texts), vocab_size)
    return engine


def training(texts: list[str], options: Options) -> Iterator[dict]:
    "Seconds to train."
    from gpt_nb.tokenizer import BPETokenizer, cores
    peers = {"tokenizers": in_tokenizers}
    if in_rustbpe(texts[:1], 256): peers["rustbpe"] = in_rustbpe
    for size in VOCABULARIES:
        ways = {"ours": lambda: BPETokenizer.train(texts, size, ())}
        for name, way in peers.items(): ways[name] = lambda way=way: way(texts, size)
        times = in_turn(ways, options.rounds)
        for name in peers:
            goal = 1.5 if name == "tokenizers" else None
            for seconds, threads in (("cpu", 1), ("wall", cores())):
                ours, theirs = getattr(times["ours"], seconds), getattr(times[name], seconds)
                yield row(work=f"BPE training, 10 MB, {size:,} ({seconds}, {name})", unit="s",
                          ours=ours, peer=theirs, peer_name=name, goal=goal, threads=threads)


def encoding(texts: list[str], options: Options) -> Iterator[dict]:
    "Megabytes a second on one thread, and on all cores."
    from gpt_nb.data import tokenize
    from gpt_nb.tokenizer import BPETokenizer, cores, encode_by_hand
    tok, size = BPETokenizer.train(texts, 4096), sum(len(t.encode()) for t in texts) / 1e6
    peer = tok.fast
    if tok.encode_batch(texts) != [peer.encode_ordinary(t) for t in texts]:
        raise SystemExit("our ids are not tiktoken's")
    one = in_turn({"ours": lambda: [tok.encode(t) for t in texts],
                   "by hand": lambda: [encode_by_hand(tok, t) for t in texts],
                   "peer": lambda: [peer.encode_ordinary(t) for t in texts],
                   "tokenizers": lambda: tok.engine.encode_batch_fast(texts)}, options.rounds)
    fast = size / one["peer"].cpu
    yield row(work="encode, 10 MB (cpu)", unit="MB/s", ours=size / one["ours"].cpu, peer=fast,
              peer_name="tiktoken", goal=0.5, less=False, threads=1)
    yield row(work="encode_by_hand, 10 MB (cpu)", unit="MB/s", ours=size / one["by hand"].cpu,
              peer=fast, peer_name="tiktoken", less=False, threads=1)
    yield row(work="encode, 10 MB (cpu, tokenizers)", unit="MB/s", ours=size / one["ours"].cpu,
              peer=size / one["tokenizers"].cpu, peer_name="tokenizers", less=False, threads=1)
    bulk = in_turn({"encode_batch": lambda: tok.encode_batch(texts),
                    "tokenize": lambda: tokenize(texts, tok, progress=False),
                    "peer": lambda: peer.encode_ordinary_batch(texts, num_threads=cores())},
                   options.rounds)
    for name in ("encode_batch", "tokenize"):
        yield row(work=f"{name}, 10 MB", unit="MB/s", ours=size / bulk[name].wall,
                  peer=size / bulk["peer"].wall, peer_name="tiktoken", goal=1, less=False,
                  threads=cores())


GROWN = """
import sys
from gpt_nb.tokenizer import BPETokenizer
from gpt_nb.data import load_texts, tokenize
def peak(): return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
folder, what, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
def stream():
    for _ in range(times): yield from open(folder + "/part.txt", encoding="utf-8")
if what == "train": BPETokenizer.train(stream(), 4096)
else:
    with open(f"{folder}/whole.txt", "w", encoding="utf-8") as file: file.writelines(stream())
    from gpt_nb.checkpoint import load_tokenizer
    texts = load_texts(f"{folder}/whole.txt")
    tokenize(texts, load_tokenizer(folder), f"{folder}/tokens", progress=False)
print(peak())
"""


def peak(folder: str, what: str, times: int) -> float:
    "Megabytes of memory that a process needed at most."
    code = [sys.executable, "-c", GROWN, folder, what, str(times)]
    env = os.environ | {"HF_DATASETS_CACHE": f"{folder}/datasets"}
    done = subprocess.run(code, capture_output=True, text=True, env=env)
    if done.returncode: raise SystemExit(done.stderr)
    return float(done.stdout)


def memory(texts: list[str], times: int = 10) -> Iterator[dict]:
    "What ten times the text adds to the memory, on Linux."
    from gpt_nb.tokenizer import BPETokenizer
    if not Path("/proc/self/status").exists(): return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "part.txt").write_text("\n".join(texts), encoding="utf-8")
        BPETokenizer.train(texts, 4096).save(folder)
        for what in ("train", "tokenize"):
            once, often = peak(folder, what, 1), peak(folder, what, times)
            yield row(work=f"memory to {what} {10 * times} MB", unit="MB", ours=often, threads=1,
                      note=f"{once:,.0f} MB for 10 MB of the same text; no library to compare with "
                      "does this from a stream")


def batches(texts: list[str], steps: int = 200) -> Iterator[dict]:
    "Milliseconds for a batch, beside those of a training step of a small model."
    import torch
    from gpt_nb.data import Batches, tokenize
    from gpt_nb.model import GPT, GPTConfig
    from gpt_nb.tokenizer import BPETokenizer
    tok = BPETokenizer.train(texts[:500], 1024)
    tokens = tokenize(texts, tok, progress=False)
    drawn = Batches(tokens.train, 12, 64, seed=0)
    model = GPT(GPTConfig(arch="gpt2", vocab_size=1024, context=64, n_layer=4, n_head=4,
                          d_model=128))

    def draw(): return [drawn[step] for step in range(steps)]
    def learn():
        x, y = drawn[0]
        for _ in range(5): model.loss(x, y).backward()
    times = in_turn({"batch": draw, "step": learn}, rounds=3)
    batch, step = times["batch"].wall / steps, times["step"].wall / 5
    yield row(work="a batch of 12 x 64, beside a step without its optimizer", unit="ms",
              ours=1e3 * batch, peer=1e3 * step, peer_name="forward+backward", goal=20,
              threads=torch.get_num_threads(), note="how many batches one step has time for")


class Waited:
    "Batches, and the processor seconds that were spent on each."
    def __init__(self, batches): self.batches, self.seconds = batches, []

    def __getitem__(self, step: int):
        start = time.process_time()
        batch = self.batches[step]
        self.seconds.append(time.process_time() - start)
        return batch


def waiting(steps: int = 20) -> Iterator[dict]:
    "The share of a training's own updates that goes into batches, in the shape of a house model."
    from gpt_nb.data import load_texts, tokenize
    from gpt_nb.model import GPT, GPTConfig
    from gpt_nb.tokenizer import WordTokenizer
    from gpt_nb.training import Run, Single, TrainConfig, Trainer
    texts = load_texts("tales:2", n_stories=10_000)
    tok = WordTokenizer.train(texts, 2048)
    tokens = tokenize(texts, tok, progress=False)           # arrays on disk, memory-mapped
    shape = dict(n_layer=4, d_model=128, n_head=8, d_head=32, tie_embeddings=False)
    model = GPT(GPTConfig(arch="llama", vocab_size=tok.vocab_size, context=256, **shape))
    config = TrainConfig(steps=steps, batch_size=32, eval_every=10**9)
    trainer = Trainer(Run(model, tok, config, [], None), tokens, Single())
    trainer.batches = Waited(trainer.batches)
    start = time.process_time()
    for _ in range(steps): trainer.update()
    spent, batches = time.process_time() - start, sum(trainer.batches.seconds)
    yield row(work="a training's updates: share spent on its batches", unit="%",
              ours=100 * batches / spent, goal=1, threads=1,
              note=f"{1e3 * batches / steps:.2f} ms a batch of 32 stories (the first, which orders "
              f"all stories, {1e3 * trainer.batches.seconds[0]:.1f}), {1e3 * spent / steps:,.0f} "
              "ms an update, processor seconds; no peer: a property of our own loop")


def rows(options: Options) -> Iterator[dict]:
    "All rows."
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    texts = text()
    yield from training(texts, options)
    yield from encoding(texts, options)
    yield from batches(texts)
    yield from waiting()
    yield from memory(texts)
