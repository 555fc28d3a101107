"""How fast `generate` writes, beside `transformers` on the same weights and beside the limit.

    python benchmarks/sampling.py [--depth 4] [--tokens 128] [--prompt 32] [--rows 1 8]

The limit: to write a token, all weights and the row's keys and values are read once, so no code on
this machine writes more than bandwidth / bytes steps a second. The bandwidth is measured here, by
adding up a large array.
"""
import argparse
import statistics
import tempfile
import time

import torch

from gpt_nb.model import GPT, GPTConfig, memory, pick_device
from gpt_nb.sampling import generate


def seconds(f, device: torch.device) -> float:
    "Seconds of one call."
    if device.type == "cuda": torch.cuda.synchronize(device)
    start = time.perf_counter()
    f()
    if device.type == "cuda": torch.cuda.synchronize(device)
    return time.perf_counter() - start


def bandwidth(device: torch.device, n: int = 64_000_000) -> float:
    "Bytes a second that are read from memory; the best of 10."
    x = torch.ones(n, device=device)
    return n * 4 / min(seconds(x.sum, device) for _ in range(10))


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    p.add_argument("--depth", type=int, default=4, help="layers of the model; the width follows")
    p.add_argument("--tokens", type=int, default=128, help="new tokens")
    p.add_argument("--prompt", type=int, default=32, help="tokens of the prompt")
    p.add_argument("--rows", type=int, nargs="+", default=[1, 8], help="batch sizes")
    p.add_argument("--repeats", type=int, default=5, help="runs of each in turn; the median counts")
    p.add_argument("--device", default="auto")
    a = p.parse_args()

    from transformers import AutoModelForCausalLM
    device = pick_device(a.device)
    torch.manual_seed(0)
    config = GPTConfig.from_depth(a.depth, vocab_size=4096, context=a.prompt + a.tokens)
    model = GPT(config).to(device).eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        theirs = theirs.to(device).eval()
    how = dict(max_new_tokens=a.tokens, do_sample=False, eos_token_id=None, pad_token_id=0)

    speed = bandwidth(device)
    print(f"{model.n_params / 1e6:.1f} million parameters, float32, {device}, "
          f"{torch.get_num_threads()} threads; memory {speed / 1e9:.1f} GB/s; tokens/s")
    print(f"{'rows':>5} {'gpt_nb':>9} {'no cache':>9} {'transformers':>13} {'limit':>8}"
          f"{'ours/theirs':>13}{'ours/limit':>12}  same ids")
    for rows in a.rows:
        ids = torch.randint(4096, (rows, a.prompt), device=device)
        mask = torch.ones_like(ids)
        how["attention_mask"] = mask
        ways = {"ours": lambda: generate(model, ids, a.tokens, temperature=0),
                "theirs": lambda: theirs.generate(ids, **how),
                "no cache": lambda: theirs.generate(ids, use_cache=False, **how)}
        same = torch.equal(ways["ours"](), ways["theirs"]())
        times = {name: [] for name in ways}
        for _ in range(a.repeats):
            for name, way in ways.items():
                if name == "no cache" and times[name]: continue
                times[name].append(seconds(way, device))
        took = {name: statistics.median(t) for name, t in times.items()}
        per = {name: rows * a.tokens / t for name, t in took.items()}
        need = memory(model.config, rows, a.prompt + a.tokens // 2, 4)
        limit = rows * speed / (need["weights"] + need["cache"])
        ratio = statistics.median(t / o for t, o in zip(times["theirs"], times["ours"]))
        print(f"{rows:5d} {per['ours']:9.0f} {per['no cache']:9.0f} {per['theirs']:13.0f} "
              f"{limit:8.0f} {ratio:12.2f} {per['ours'] / limit:11.2f}  {same}")


if __name__ == "__main__":
    main()
