"""How fast a checkpoint opens and what memory it takes, beside `transformers` and the limit.

`transformers` writes a random model in the shape of GPT-2 (124 million parameters). Processes of
their own open it in turn, ours and theirs, and read one token with it, so that every weight has
been touched. The limit: the file is read once, and the weights lie in memory once.
"""
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from frame import Options, once, row

OPEN = {"ours": "from gpt_nb.model import GPT; open_it = lambda: GPT.from_pretrained(folder)",
        "theirs": "from transformers import AutoModelForCausalLM as M; "
                  "open_it = lambda: M.from_pretrained(folder).eval()"}
PROCESS = """
import resource, sys, time, torch
folder = sys.argv[1]
{how}
if "transformers" in sys.modules:
    import transformers; transformers.logging.disable_progress_bar()
    import transformers.models.auto.modeling_auto, transformers.models.gpt2.modeling_gpt2
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


def measure(how: str, folder: str) -> list[float]:  # seconds to open, to a token; bytes
    "Open the model in a process of its own."
    code = PROCESS.format(how=OPEN[how])
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    if done.returncode: raise RuntimeError(done.stderr)
    return [float(x) for x in done.stdout.split()]


def rows(options: Options) -> Iterator[dict]:
    "Seconds until it is open, seconds until the first token, megabytes."
    from transformers import AutoModelForCausalLM, GPT2Config
    runs = {how: [] for how in OPEN}
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(GPT2Config()).save_pretrained(folder)
        files = list(Path(folder).glob("*.safetensors"))
        size = sum(f.stat().st_size for f in files) / 1e6
        reading = min(once(lambda: [f.read_bytes() for f in files]).wall for _ in range(3))
        for _ in range(options.rounds):
            for how in OPEN: runs[how].append(measure(how, folder))
    ours, theirs = ([statistics.median(seen) for seen in zip(*runs[how])] for how in OPEN)
    work = "opening GPT-2, 124 million parameters"
    yield row(f"{work}, until it is open", "s", ours[0], theirs[0], "transformers",
              note="the file is mapped into memory and read where it is used: no limit")
    yield row(f"{work}, to the first token", "s", ours[1], theirs[1], "transformers", reading)
    yield row(f"{work}, memory", "MB", ours[2] / 1e6, theirs[2] / 1e6, "transformers", size)
