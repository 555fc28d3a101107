"""What figures that a page computes (gpt_nb/web/live/) need to know of their notebook.

A cell tagged `live-NAME` shows a widget; while its notebook is executed, `data_of` takes from the
notebook's names what live/NAME.js computes with. `write_models` puts on the site what is fetched
only when a reader asks for it."""
import base64
import random
from collections.abc import Iterator
from pathlib import Path

BEGINNINGS = ("Once a shy maid named Anna", "", "Zelda went to <the> \"moon\" & ",
              "She had 5 red hats. 图", "x " * 90,
              "Once a kind girl named Mia lived in the mill. Her friend was a boy named Tom.")
ALL_SCRIPTS = ("", "aaaa  aaa\n\nit's 12345", "<b>从前 &amp; 🪁🪁</b>", "def f(x):\n\treturn x**2",
               "naïve café привет ١٢٣ \ufffd", "the the the theory of everything")
TYPED = dict(checkpoints=BEGINNINGS, heads=BEGINNINGS, inside=BEGINNINGS,
             merges=ALL_SCRIPTS)   # what tests type
GROWING = ("000050", "000200", "000800", "003000")


def data_of(live: str, names: dict) -> dict:
    "For a module: JSON made of what the notebook knows by these names."
    return DATA[live](names)


def samples(live: str, options: list, n: int = 12) -> Iterator[list]:
    "Values of a figure's controls, drawn by chance; a text has one option, and those in TYPED."
    rng = random.Random(live)
    for i in range(n):
        values = [rng.choice(values)[1] for values in options]
        typed = TYPED.get(live)
        texts = [j for j, found in enumerate(options) if len(found) == 1]
        if typed and texts: values[texts[0]] = typed[i % len(typed)]
        yield values


def descent(names: dict) -> dict:
    "How often each deed followed each other, in all pairs of the chapter."
    before, after, pairs = names["before"], names["after"], names["pairs"]
    counts = [[pairs.count((a, b)) for b in after] for a in before]
    return dict(before=before, after=after, counts=counts)


def nothing(names: dict) -> dict:
    "For what comes with the models."
    return {}


def merges(names: dict) -> dict:
    "The chapter's tokenizer."
    from gpt_nb.page import page_tokenizer
    from gpt_nb.tokenizer import BPETokenizer

    tok = BPETokenizer(list(names["mixed"].merges))   # that of the notebook is of its own class
    return page_tokenizer(tok)


def heads(names: dict) -> dict:
    "The model that the chapter has trained: what its attention computes with."
    from gpt_nb.attention import rope_frequencies
    from gpt_nb.page import page_tokenizer

    model, tok = names["writers"]["with mask"], names["tok"]
    weights = model.word, model.attention.q_proj, model.attention.k_proj
    stored = [base64.b64encode(part.weight.detach().numpy().tobytes()).decode() for part in weights]
    return dict(weights=stored, width=model.word.embedding_dim, tokenizer=page_tokenizer(tok),
                frequencies=rope_frequencies(model.attention.q_proj.out_features // 4).tolist())


def knobs(names: dict) -> dict:
    "The chapter's distribution, and the words that stand in the text already."
    used = names["kite"][0].nonzero()[:, 0].tolist()
    return dict(words=names["words"], logits=names["logits"][0].tolist(), used=used)


DATA = dict(merges=merges, descent=descent, heads=heads, knobs=knobs, checkpoints=nothing,
            inside=nothing)


def write_models(folder: Path) -> None:
    "The models that figures fetch: in the precision of their files, so that no number changes."
    from gpt_nb.checkpoint import load_tokenizer
    from gpt_nb.model import GPT
    from gpt_nb.page import write_page_model

    for copy in GROWING:
        name = f"growing/{copy}"
        model, tok = GPT.from_pretrained(name), load_tokenizer(name)
        write_page_model(model, tok, folder / f"growing-{copy}", "bfloat16")
