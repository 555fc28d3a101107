"""A training step beside `transformers`, nanoGPT and torch.optim.Muon: time, memory, the limit.

On a CPU the shape is small: GPT-2's with 4 layers of 128 features, 12 rows of 64 characters. On a
GPU it is GPT-2's own, 124 million parameters, in bfloat16 and compiled. All read the same batches.
The limit: the products of a step at the speed of one large product, measured here.
"""
import contextlib
import importlib.util
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from frame import Options, Times, in_turn, multiplying_speed, once, row, threads

from gpt_nb.data import Tokens
from gpt_nb.model import GPT, GPTConfig, flops_per_token, memory
from gpt_nb.training import (Machine, Run, Single, TrainConfig, Trainer, make_optimizers,
                             multiplies_bfloat16)

SHAPES = {"cpu": dict(vocab_size=65, context=64, n_layer=4, n_head=4, d_model=128),
          "cuda": dict(vocab_size=50304, context=1024, n_layer=12, n_head=12, d_model=768)}
ROWS = {"cpu": 12, "cuda": 16}
AT_ONCE = 4   # steps in one measurement


def shape(device: str) -> GPTConfig:
    "The model of this benchmark."
    return GPTConfig("gpt2", **SHAPES[device])


def tokens(c: GPTConfig) -> Tokens:
    "Noise, as long as a small text: what stands in it does not change the time."
    ids = np.random.default_rng(0).integers(c.vocab_size, size=200_000, dtype=np.uint16)
    return Tokens(ids, ids[:1000], None, c.vocab_size, folder=None)   # no ends: whole windows


def settings(device: str, **changes) -> TrainConfig:
    "As `train` has them, with AdamW."
    usual = dict(steps=10**6, batch_size=ROWS[device], optimizer="adamw", lr=1e-3, device=device,
                 precision="float32", compile=False)
    return TrainConfig(**usual | changes)


def ours(device: str, **changes) -> Callable:
    "Steps of the loop of chapter 09, with all that belongs to it."
    torch.manual_seed(0)
    c = shape(device)
    trainer = Trainer(Run(GPT(c), None, settings(device, **changes), []), tokens(c), Single())
    return lambda: [trainer.update() for _ in range(AT_ONCE)]


def plain(device: str, model, logits: Callable, optimizers: list, **changes) -> Callable:
    "A bare loop over the same batches: loss, gradients, clipping, steps."
    config, c = settings(device, **changes), shape(device)
    machine, parameters = Machine(config), list(model.parameters())
    batches = tokens(c).batches(ROWS[device], c.context, 0)
    at = iter(range(10**9))

    def loss_of(x, y): return F.cross_entropy(logits(x).float().flatten(0, 1), y.flatten())
    loss_of = machine.compile(loss_of)

    def step():
        x, y = (part.to(device) for part in batches[next(at)])
        with machine.autocast(): loss = loss_of(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return lambda: [step() for _ in range(AT_ONCE)]


def transformers_model(device: str):
    "GPT-2 of `transformers`, of the same shape, without dropout."
    from transformers import GPT2Config, GPT2LMHeadModel
    s = SHAPES[device]
    none = dict(resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=0, eos_token_id=0)
    made = GPT2Config(vocab_size=s["vocab_size"], n_positions=s["context"], n_embd=s["d_model"],
                      n_layer=s["n_layer"], n_head=s["n_head"], **none)
    return GPT2LMHeadModel(made).to(device)


def theirs(device: str, **changes) -> Callable:
    "Steps of `transformers`' model, with fused AdamW."
    model = transformers_model(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    def logits(x): return model(input_ids=x, use_cache=False).logits
    return plain(device, model, logits, [optimizer], **changes)


def nanogpt(folder: Path, device: str, **changes) -> Callable:
    "Steps of nanoGPT's model with its own optimizer."
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    sys.modules["nanogpt_model"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    s = SHAPES[device]
    made = module.GPTConfig(s["context"], s["vocab_size"], s["n_layer"], s["n_head"], s["d_model"],
                            dropout=0.0, bias=False)
    with contextlib.redirect_stdout(io.StringIO()):
        model = module.GPT(made).to(device)
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), device)
    def logits(x): return model(x, x)[0]   # with targets, or it gives the last position alone
    return plain(device, model, logits, [optimizer], **changes)


def torch_muon(device: str) -> Callable:
    "Our model under torch's own Muon, and AdamW for the rest."
    torch.manual_seed(0)
    model = GPT(shape(device)).to(device)
    adamw, muon = make_optimizers(model, settings(device, optimizer="muon"))
    same = torch.optim.Muon(muon.param_groups[0]["params"], lr=0.02)
    return plain(device, model, model, [adamw, same])


def limit(device: str, dtype: str) -> float:
    "Milliseconds: three times the products of reading, at the speed of one large product."
    c = shape(device)
    work = 3 * flops_per_token(c, c.context) * ROWS[device] * c.context
    size = 4096 if device == "cuda" else 1024
    return 1000 * work / multiplying_speed(device, dtype, size)


def milliseconds(times: dict[str, Times], n: int) -> dict[str, float]:
    "Of one step: by the clock, with one thread of processor time."
    return {name: 1000 * (t.cpu if n == 1 else t.wall) / AT_ONCE for name, t in times.items()}


def fastest(ms: dict[str, float], start: str) -> str:
    "The name of the fastest way whose name begins so."
    return min((name for name in ms if name.startswith(start)), key=ms.get)


def ways_of(options: Options, bfloat16: bool) -> dict[str, Callable]:
    "Everybody, each way."
    d, made = options.device, {}
    kinds = {"": {}, ", bfloat16": dict(precision="bfloat16")} if bfloat16 else {"": {}}
    for words, how in kinds.items():
        made["ours" + words] = ours(d, **how)
        made["transformers" + words] = theirs(d, **how)
        if options.nanogpt: made["nanoGPT" + words] = nanogpt(options.nanogpt, d, **how)
    return made


def rows(options: Options) -> Iterator[dict]:
    "Steps with one thread and with two, compiled or not, in 32 and 16 bits; then memory."
    if options.device == "cuda":
        yield from on_gpu(options)
        return
    bfloat16 = multiplies_bfloat16(torch.device("cpu"))
    for n in (1, min(2, os.cpu_count())):
        with threads(n): yield from on_cpu(options, n, bfloat16)
    yield memory_row(options.device)


def on_cpu(options: Options, n: int, bfloat16: bool) -> Iterator[dict]:
    "All rows of a step with `n` threads."
    work = "training step, GPT-2 4 x 128, batch 12 x 64"
    ways = ways_of(options, bfloat16)
    ways |= {"ours, compiled": ours("cpu", compile=True),
             "transformers, compiled": theirs("cpu", compile=True)}
    ways |= {"ours, Muon": ours("cpu", optimizer="muon", precision="auto"),
             "torch.optim.Muon": torch_muon("cpu")}
    first = once(ways["ours, compiled"])
    ms = milliseconds(in_turn(ways, options.rounds), n)
    peers = {"transformers": None} | ({"nanoGPT": 1.5} if options.nanogpt else {})
    for name, goal in peers.items():
        same = {k: v for k, v in ms.items() if "bfloat16" not in k}
        peer = fastest(same, name)
        least = limit("cpu", "float32")
        yield row(f"{work}, float32, beside {name}", "ms", ms["ours"], ms[peer], peer, least, goal,
                  threads=n, note=named(n) + reach(ms[peer], goal, least))
        if not bfloat16: continue
        peer, goal, least = fastest(ms, name), goal and 2.5, limit("cpu", "bfloat16")
        yield row(f"{work}, bfloat16, beside {name}", "ms", ms["ours, bfloat16"], ms[peer], peer,
                  least, goal, threads=n, note=named(n) + reach(ms[peer], goal, least))
    yield row(f"{work}, compiled", "ms", ms["ours, compiled"], ms["transformers, compiled"],
              "transformers, compiled", limit("cpu", "float32"), threads=n,
              note=pays_back(first.wall, ms["ours"], ms["ours, compiled"]))
    yield row(f"{work}, Muon", "ms", ms["ours, Muon"], ms["torch.optim.Muon"], "torch.optim.Muon",
              threads=n, note=named(n))


def named(n: int) -> str:
    "What a time is."
    return "seconds of the processor" if n == 1 else "seconds of the clock"


def reach(peer: float, goal: float | None, limit: float) -> str:
    "How near the limit the goal lies."
    return f"; the goal would be {limit / (peer / goal):.0%} of the limit" if goal else ""


def pays_back(seconds: float, eager: float, compiled: float) -> str:
    "After how many steps compiling has paid."
    start = f"compiling takes {seconds:.0f} s; a step {eager:.1f} ms before, {compiled:.1f} after"
    gain = (eager - compiled) / 1000
    if gain <= 0: return f"{start}: it never pays"
    return f"{start}: it pays after {seconds / gain:,.0f} steps"


def on_gpu(options: Options) -> Iterator[dict]:
    "GPT-2's own size, everybody compiled and in 16 bits."
    how = dict(precision="bfloat16", compile=True)
    ways = {"ours": ours("cuda", **how), "transformers": theirs("cuda", **how)}
    if options.nanogpt: ways["nanoGPT"] = nanogpt(options.nanogpt, "cuda", **how)
    times, c = in_turn(ways, options.rounds), shape("cuda")
    count = ROWS["cuda"] * c.context * AT_ONCE
    speed = {name: count / t.wall for name, t in times.items()}
    most = ROWS["cuda"] * c.context / (limit("cuda", "bfloat16") / 1000)
    for peer in list(speed)[1:]:
        yield row(f"training, GPT-2 124M, beside {peer}", "tokens/s", speed["ours"], speed[peer],
                  peer, most, 1.3, less=False, note="the goal is 55 % of the limit, too")
    yield memory_row("cuda")


PEAK = """
import sys, torch
sys.path.insert(0, {folder!r})
import step
torch.set_num_threads(1)
torch.ones(300, 300) @ torch.ones(300, 300)
def of_process(line): return int(open("/proc/self/status").read().split(line)[1].split()[0]) * 1024
cuda = {device!r} == "cuda"
import transformers.models.gpt2.modeling_gpt2
before = 0 if cuda else of_process("VmRSS:")
steps = step.{who}({device!r})
steps()
print(torch.cuda.max_memory_allocated() if cuda else of_process("VmHWM:") - before)
"""


def peak(who: str, device: str) -> float:
    "Megabytes that a process of its own needs for some steps."
    code = PEAK.format(folder=str(Path(__file__).parent), who=who, device=device)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode: raise RuntimeError(done.stderr)
    return float(done.stdout.split()[-1]) / 1e6


def memory_row(device: str) -> dict:
    "The peak of some steps, beside what the calculator of chapter 08 says of the weights."
    need, c = memory(shape(device)), shape(device)
    states = sum(need[name] for name in ("weights", "gradients", "optimizer")) / 1e6
    each = c.n_layer * (8 * c.d_model + 2 * c.d_ff) + 2 * c.vocab_size   # numbers kept of a token
    inner = 4 * ROWS[device] * c.context * each / 1e6
    note = (f"predicted: {states:.0f} MB for weights, gradients and optimizer, and about "
            f"{inner:.0f} MB that are kept for the way back")
    return row(f"training step, {c.n_layer} x {c.d_model}, peak memory", "MB", peak("ours", device),
               peak("theirs", device), "transformers", states + inner, threads=1, note=note)
