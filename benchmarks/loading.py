"""How fast a checkpoint opens and what memory it takes, beside `transformers` and the limit.

    python benchmarks/loading.py [--repeats 5] [--arch gpt2]

`transformers` writes a random model in the shape of GPT-2 (124 million parameters). Processes of
their own open it in turn, ours and theirs, and read one token with it, so that every weight has
been touched. The limit: the file is read once, and the weights lie in memory once.
"""
import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OPEN = {"ours": "from gpt_nb.model import GPT; open_it = lambda: GPT.from_pretrained(folder)",
        "theirs": "from transformers import AutoModelForCausalLM as M; "
                  "open_it = lambda: M.from_pretrained(folder).eval()"}
PROCESS = """
import resource, sys, time, torch
folder = sys.argv[1]
{how}
if "transformers" in sys.modules:
    import transformers; transformers.logging.disable_progress_bar()
    import transformers.models.auto.modeling_auto, transformers.models.{arch}.modeling_{arch}
def memory(line):   # ru_maxrss would be inherited from the process that started this one
    try: return int(open("/proc/self/status").read().split(line)[1].split()[0]) * 1024
    except OSError: return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss   # macOS
torch.ones(10) @ torch.ones(10)
before, start = memory("VmRSS:"), time.perf_counter()
model = open_it()
opened = time.perf_counter() - start
with torch.no_grad(): model(torch.zeros(1, 1, dtype=torch.long))
print(opened, time.perf_counter() - start, memory("VmHWM:") - before)
"""


def measure(how: str, folder: str, arch: str) -> list[float]:  # seconds to open, to a token; bytes
    "Open the model in a process of its own."
    code = PROCESS.format(how=OPEN[how], arch=arch)
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    if done.returncode: raise SystemExit(done.stderr)
    return [float(x) for x in done.stdout.split()]


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    p.add_argument("--repeats", type=int, default=5,
                   help="processes of each, in turn; the median counts")
    p.add_argument("--arch", default="gpt2", choices=["gpt2", "llama", "qwen2", "qwen3"])
    a = p.parse_args()
    import transformers
    if a.arch == "gpt2": config = transformers.GPT2Config()
    else:
        sizes = dict(vocab_size=50257, hidden_size=768, intermediate_size=2048,
                     num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=12,
                     head_dim=64, tie_word_embeddings=True)
        config = transformers.AutoConfig.for_model(a.arch, **sizes)
    with tempfile.TemporaryDirectory() as folder:
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        size = sum(f.stat().st_size for f in Path(folder).glob("*.safetensors"))
        start = time.perf_counter()
        for f in Path(folder).glob("*.safetensors"): f.read_bytes()
        limit = time.perf_counter() - start
        runs = {how: [] for how in OPEN}
        for _ in range(a.repeats):
            for how in OPEN: runs[how].append(measure(how, folder, a.arch))
    ours, theirs = ([statistics.median(column) for column in zip(*runs[how])] for how in OPEN)
    print(f"{a.arch}: {size / 1e6:.0f} MB of weights; median of {a.repeats}")
    print(f"{'':24}{'gpt_nb':>10}{'transformers':>14}{'ours/theirs':>13}{'limit':>10}")
    names, limits = ("to open", "to the first token", "memory"), (limit, limit, size)
    for name, x, y, least, unit in zip(names, ours, theirs, limits, ("s", "s", "MB")):
        scale = 1e6 if unit == "MB" else 1
        numbers = f"{x / scale:10.3f}{y / scale:14.3f}{x / y:13.2f}{least / scale:10.3f}"
        print(f"{name + ', ' + unit:24}{numbers}")


if __name__ == "__main__":
    main()
