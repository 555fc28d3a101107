"""The long measurements of chapters 13b to 13d: `python tools/interpret.py NAME ...` (`make
interpret`; none named: all). First three small models of level 1 are trained from three seeds into
runs/interpret/seedN, with copies kept along the way; what is done with them goes to
nbs/results/NAME.json.

A training that was stopped goes on; take a file or a folder away to measure anew."""
import torch
from models import ROOT, choose, prepare
from results import SEEDS

from gpt_nb.data import longest_document
from gpt_nb.emergence import share_that_holds, write_stories
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.tales import Tales
from gpt_nb.training import Run, TrainConfig, train

FOLDER = ROOT / "runs" / "interpret"
SHAPE = dict(n_layer=4, d_model=96, n_head=6, tie_embeddings=False)
KEEP = (25, 50, 100, 150, 200, 300, 400, 600, 800, 1200, 2000, 3000)   # updates between looks
SETTINGS = dict(steps=KEEP[-1], batch_size=32, lr=0.02, muon_lr=0.01, eval_every=500, keep=KEEP,
                precision="bfloat16", compile=True)   # both: an update in half the time


def fit(seed: int, tok, tokens) -> Run:
    "Train one model from its seed, or go on where it was stopped."
    out = FOLDER / f"seed{seed}"
    ends = dict(bos_token_id=tok.end_id, eos_token_id=tok.end_id)
    torch.manual_seed(seed)
    model = GPT(GPTConfig("qwen3", tok.vocab_size, longest_document(tokens), **ends, **SHAPE))
    config = TrainConfig(seed=seed, **SETTINGS)
    resume = (out / "state").is_dir()
    return train(model, tokens, config, tok, out=out, resume=resume, options=dict(data="tales"))


def models() -> None:
    "The three models, and what holds of the stories they tell."
    tok, tokens = prepare("tales", "word")
    for seed in SEEDS:
        run = fit(seed, tok, tokens)
        holds = share_that_holds(Tales(), write_stories(run.model, tok, 300, seed=0))
        print(f"seed {seed}: validation loss {run.history[-1]['val_loss']:.4f},", holds, flush=True)


def of_seed(seed: int, step: int = KEEP[-1]) -> tuple:
    "A model as it was after so many updates, and its tokenizer."
    run = Run.open(FOLDER / f"seed{seed}")
    copy = FOLDER / f"seed{seed}" / "checkpoints" / f"{step:06d}"
    return GPT.from_pretrained(copy, dtype=torch.float32).eval(), run.tok


WORK = {"models": models}

if __name__ == "__main__":
    for name in choose(WORK, "measurement", __doc__): WORK[name]()
