"""One model trained by 1, 2 and 4 processes in each of the three ways, and what happens when one
of four is killed: `python tools/scaling.py` writes nbs/results/scaling.json, which chapter 19
shows. What stands in that file is kept; take it away to measure anew."""
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from results import so_far, write

from gpt_nb.data import tokenize
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.scaling import KINDS, Report, train_on
from gpt_nb.tales import Tales
from gpt_nb.tokenizer import WordTokenizer
from gpt_nb.training import TrainConfig, train

CONFIG = TrainConfig(steps=8, batch_size=16, log_every=1, eval_every=8, eval_tokens=1000,
                     device="cpu", precision="float32")
COMMAND = ("-m gpt_nb.cli train --data {data} --tokenizer word --depth 2 --steps 60 "
           "--eval-every 5 --batch-size 16 --device cpu --seed 0").split()


def start():
    "The tokens and the untrained model of every run."
    texts = list(Tales().texts(400))
    tok = WordTokenizer.train(texts, vocab_size=2**13)
    torch.manual_seed(0)
    shape = GPTConfig("qwen3", tok.vocab_size, 96, 2, 4, 128, tie_embeddings=False)
    return tokenize(texts, tok, progress=False), GPT(shape)


def seconds_per_step(report: Report) -> float:
    "The median of the later half, as this process saw them."
    before, times = 0, []
    for row in report.history:
        tokens, pace = row["tokens"] - before, row["tokens_per_second"]
        if pace: times.append(tokens / pace)
        before = row["tokens"]
    return statistics.median(times[len(times) // 2:])


def told(kind: str, world: int, alone: list[float]) -> dict:
    "What the processes of a run have to tell; `alone`: the losses of one process without others."
    tokens, model = start()
    ranks = train_on(world, kind, model, tokens, CONFIG)
    apart = max(abs(row["loss"] - loss) for row, loss in zip(ranks[0].history[1:], alone))
    return dict(kind=kind, world=world, apart_in_millionths=1e6 * apart,
                bytes=[report.bytes for report in ranks],
                seconds=[seconds_per_step(report) for report in ranks])


def torchrun(world: int, out: Path, data: Path, *more: str) -> subprocess.Popen:
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world),
             *[word.format(data=data) for word in COMMAND], "--out", str(out), *more]
    env = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(data.parent)}
    return subprocess.Popen([sys.executable, *words], env=env, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True)


def ranks_of(agent: subprocess.Popen) -> list[int]:
    "The processes that torchrun has started, the first rank first."
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    ranks = {}
    for pid in children:
        env = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        for word in env:
            if word.startswith(b"RANK="): ranks[int(word[5:])] = int(pid)
    return [ranks[i] for i in sorted(ranks)]


def lines(out: Path) -> list[dict]:
    log = out / "log.jsonl"
    return [json.loads(row) for row in log.read_text().splitlines()] if log.is_file() else []


def kill_one(kind: str = "fsdp") -> dict:
    "Train with four, kill the third, go on with two."
    with tempfile.TemporaryDirectory() as folder:
        out, data = Path(folder) / "run", Path(folder) / "stories.txt"
        data.write_text("\n\n".join(Tales().texts(400)))
        job = torchrun(4, out, data, "--parallel", kind)
        while len(lines(out)) < 4 and job.poll() is None: time.sleep(0.1)
        os.kill(ranks_of(job)[2], signal.SIGKILL)
        at = time.perf_counter()
        said = job.communicate()[1]
        took, reached = time.perf_counter() - at, lines(out)[-1]["step"]
        saved = sorted(path.name for path in (out / "state").iterdir())
        again = torchrun(2, out, data, "--parallel", kind, "--resume")
        said += again.communicate()[1]
        steps = [row["step"] for row in lines(out)]
        assert job.returncode and not again.returncode, said
        return dict(kind=kind, reached=reached, seconds=took, saved=saved, last=steps[-1],
                    ascending=steps == sorted(set(steps)))


def main() -> None:
    held = so_far("scaling") or {}
    runs = held.setdefault("runs", [])
    tokens, model = start()
    one = train(model, tokens, CONFIG, show=False)
    alone = held["loss"] = [row["loss"] for row in one.history[1:]]
    for kind in KINDS:
        for world in (1, 2, 4):
            if any((run["kind"], run["world"]) == (kind, world) for run in runs): continue
            runs.append(told(kind, world, alone))
            print(kind, world, runs[-1]["seconds"], flush=True)
            write("scaling", held)
    if "killed" not in held:
        held["killed"] = kill_one()
        write("scaling", held)
    print(held["killed"])


if __name__ == "__main__": main()
