"""Tokens a second of `generate`, beside `transformers` on the same weights and beside the limit.

To write a token, all weights are read once, so no code on this machine makes more than bandwidth /
bytes steps a second. Two shapes with random weights: GPT-2's smallest, and a house model's.
"""
import copy
import tempfile
from collections.abc import Iterator

import torch
from frame import Options, in_turn, reading_speed, row, threads

from gpt_nb.model import GPT, GPTConfig
from gpt_nb.sampling import generate, pack, row_loop

PROMPT = 4   # tokens; few, for what is measured is writing
SHAPES = {
    "GPT-2 124M": dict(arch="gpt2", vocab_size=50257, context=1024, n_layer=12, n_head=12,
                       d_model=768),
    "house model 0.9M": dict(arch="qwen3", vocab_size=306, context=110, n_layer=4, n_head=8,
                             d_head=32, d_model=128, d_ff=384),
}
GOALS = {("GPT-2 124M", "float32", 1): 2, ("GPT-2 124M", "bfloat16", 1): 3.5,
         ("GPT-2 124M", "float32", 8): 2}


def theirs_of(model: GPT) -> torch.nn.Module:
    "The same model, opened by `transformers`."
    from transformers import AutoModelForCausalLM
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def ways(shape: str, rows: int, n_new: int, device: str) -> tuple[dict, dict]:
    "Name -> a call that writes `n_new` tokens a row; and the bytes of the weights of each of ours."
    torch.manual_seed(0)
    model = GPT(GPTConfig(**SHAPES[shape])).eval()
    theirs = theirs_of(model)
    ids = torch.randint(model.config.vocab_size, (rows, PROMPT))
    with torch.inference_mode():
        torch.testing.assert_close(pack(model, rows)(ids), theirs(ids).logits, atol=1e-4, rtol=1e-3)
    ids, how = ids.to(device), dict(max_new_tokens=n_new, do_sample=False, eos_token_id=None)
    how |= dict(pad_token_id=0, attention_mask=torch.ones_like(ids))
    calls, sizes = {}, {}
    for kind in ("float32", "bfloat16"):
        own = copy.deepcopy(model).to(device, getattr(torch, kind))
        peer = copy.deepcopy(theirs).to(device, getattr(torch, kind))
        sizes[kind] = sum(w.nbytes for w in own.parameters())
        if own.config.family.rotary is False: sizes[kind] -= own.model.embed_positions.weight.nbytes
        ready = pack(own, rows) if device == "cpu" else own
        calls["ours", kind] = lambda m=ready: generate(m, ids, n_new, temperature=0)
        calls["plain", kind] = lambda m=own: generate(m, ids, n_new, temperature=0)
        calls["theirs", kind] = lambda m=peer: m.generate(ids, **how)
    return calls, sizes


def measured(shape: str, rows: int, n_threads: int, options: Options) -> Iterator[dict]:
    "A row of the table for each kind of number."
    n_new = 16 if shape.startswith("GPT-2") else 64
    with threads(n_threads):
        calls, sizes = ways(shape, rows, n_new, options.device)
        times = in_turn(calls, min(options.rounds, 3 if rows > 1 else 5))
        speed = reading_speed(options.device)
    spent = {name: t.cpu if n_threads == 1 else t.wall for name, t in times.items()}
    rate = {name: rows * n_new / seconds for name, seconds in spent.items()}
    for kind, n_bytes in sizes.items():
        fastest = max(("float32", "bfloat16") if kind == "bfloat16" else ("float32",),
                      key=lambda k: rate["theirs", k])
        read = rate["ours", kind] / rows * n_bytes
        note = (f"{read / 1e9:.1f} GB/s of {speed / 1e9:.1f}; {rate['plain', kind]:.0f} without "
                f"pack; transformers in {fastest}")
        if (rows, kind) == (1, "float32") and row_loop(torch.float32): note += "; compiled loop"
        if n_threads == 1: note += "; by processor seconds"
        yield row(f"decoding, {shape}, batch {rows}, {kind}", "tokens/s", rate["ours", kind],
                  rate["theirs", fastest], "transformers", rows * speed / n_bytes,
                  GOALS.get((shape, kind, rows)), less=False, threads=n_threads, note=note)


def rows(options: Options) -> Iterator[dict]:
    "Both shapes, one text and eight, with two threads and with one."
    for shape in SHAPES:
        for n_rows in (1, 8):
            for n_threads in (2, 1): yield from measured(shape, n_rows, n_threads, options)
