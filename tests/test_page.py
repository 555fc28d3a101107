"""The engine that runs a GPT inside a page: ids and logits are Python's, in a real browser that is
allowed nothing outside."""
import json
import random
import re
import urllib.error
import urllib.request
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from browser import CHROMIUM, running, started

from gpt_nb.adapters import add_lora
from gpt_nb.attention import RopeScaling
from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.model import GPT, GPTConfig, activations
from gpt_nb.page import (WEB, as_on_page, page_split, serve, to_int8, world_data, write_page,
                         write_page_model)
from gpt_nb.sampling import Sampler, draw, generate
from gpt_nb.tales import Tales
from gpt_nb.tokenizer import (END, GPT2_SPLIT, GPT4_SPLIT, BPETokenizer, CharTokenizer,
                              WordTokenizer)

ENGINE = WEB / "engine.js"
HOUSE = ("tales-en", "tales-zh", "pydocs")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no browser (install chromium)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "What is served: the engine and an empty page; tests write models into it."
    folder = write_page(tmp_path_factory.mktemp("page"), {})
    (folder / "empty.html").write_text("<!doctype html><title>empty</title>", "utf-8")
    return folder


@pytest.fixture(scope="module")
def address(folder):
    with running(serve(folder)) as address: yield address


@pytest.fixture(scope="module")
def page(address):
    "An empty page whose scripts may import the engine; what it does wrong fails the test."
    if CHROMIUM is None: pytest.skip("no browser (install chromium)")
    with started() as browser:
        page, wrong = browser.new_page(), []
        page.route(lambda url: not url.startswith(address), lambda route: wrong.append(
            route.request.url) or route.abort())
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{address}/empty.html")
        yield page
        assert not wrong, wrong


HEAD = """async (text) => {
    const given = JSON.parse(text);
    const E = await import("/engine.js");
    const opened = window.opened ??= {};
    const open = async (name) => opened[name] ??= await E.openModel(`/models/${name}`);
    const told = async (work) => {
        try { return { value: await work() }; }
        catch (error) { return { code: error.code, name: error.name, said: error.message }; }
    };
    const work = async () => {
"""


def run(page, script, **given):
    "What a script returns in the page; as JSON, which is quick."
    whole = f"{HEAD}{script}\n}};\nreturn JSON.stringify(await work());\n}}"
    return json.loads(page.evaluate(whole, json.dumps(given)))


def put(folder, name, model, tok, dtype):
    "Write a model where the page finds it."
    if not (folder / "models" / name).is_dir():
        write_page_model(model, tok, folder / "models" / name, dtype)
    return name


def opened(name):
    return GPT.from_pretrained(name, dtype=torch.float32), load_tokenizer(name)


WRITE = """
    const model = await open(given.name), session = new E.Session(model), rows = [];
    let logits;
    for (const id of given.prompt) logits = session.feed(id);
    const written = [];
    for (let i = 0; i < given.n; i++) {
        rows.push(Array.from(logits));
        written.push(E.sample(logits, { temperature: 0 }, Math.random));
        logits = session.feed(written[i]);
    }
    return { written, rows };"""


def gap(ours, theirs):
    "The largest difference of logits at any step, beside the largest logit of that step."
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    return ((ours - theirs).abs().amax(-1) / theirs.abs().amax(-1)).max().item()


def prompt_of(name, tok, seed):
    "A beginning that was not in the training text."
    if name != "pydocs":
        text = Tales(name[-2:], level=2).sample(10**8 + seed).text
        return [tok.end_id, *tok.encode(text)[:12 + 5 * seed]]
    words = "the class raises returns object of a list file when not module for is".split()
    text = " ".join(random.Random(seed).choices(words, k=9))
    return [tok.end_id, *tok.encode(f"Zebra {text}")]


@needs_browser
@pytest.mark.parametrize("dtype", ["int8", "bfloat16", "float32"])
@pytest.mark.parametrize("name", HOUSE)
def test_it_writes_what_python_writes(page, folder, name, dtype):
    model, tok = opened(name)
    same, stored = as_on_page(model, dtype), put(folder, f"{name}-{dtype}", model, tok, dtype)
    for seed in range(3):
        prompt = prompt_of(name, tok, seed)
        found = run(page, WRITE, name=stored, prompt=prompt, n=60)
        assert found["written"] == generate(same, prompt, 60, temperature=0)[len(prompt):]
        ids = torch.tensor([prompt + found["written"][:-1]])
        with torch.no_grad(): first, real = (m(ids)[0, len(prompt) - 1:] for m in (same, model))
        assert gap(found["rows"], first) < 1e-5
        assert gap(found["rows"], real) < (0.05 if dtype == "int8" else 1e-5)


SHAPES = dict(vocab_size=37, context=40, n_layer=2, n_head=4, d_model=24, d_ff=36)
CONFIGS = {
    "gpt2": GPTConfig("gpt2", **SHAPES),
    "gpt2-untied": GPTConfig("gpt2", **SHAPES, tie_embeddings=False),
    "llama": GPTConfig("llama", **SHAPES, n_kv_head=2, tie_embeddings=False),
    "llama-biases": GPTConfig("llama", **SHAPES, n_kv_head=1, attention_bias=True, mlp_bias=True),
    "llama-wide": GPTConfig("llama", **SHAPES, d_head=10, rope_theta=500.0),
    "llama3": GPTConfig("llama", **SHAPES, rope_scaling=RopeScaling("llama3", 8.0, 16)),
    "qwen2": GPTConfig("qwen2", **SHAPES, n_kv_head=2),
    "qwen3": GPTConfig("qwen3", **SHAPES, n_kv_head=2, d_head=14),
    "qwen3-biases": GPTConfig("qwen3", **SHAPES, attention_bias=True, tie_embeddings=False),
    "yarn": GPTConfig("qwen3", **SHAPES, rope_scaling=RopeScaling("yarn", 4.0, 16, magnitude=1.1)),
}


def random_model(config):
    "Weights of the size that matters: biases and norms, too."
    torch.manual_seed(0)
    model = GPT(config)
    with torch.no_grad():
        for weight in model.parameters(): weight.normal_(1 if weight.dim() == 1 else 0, 0.3)
    return model.eval()


@needs_browser
@pytest.mark.parametrize("name", CONFIGS)
def test_every_family_has_its_logits(page, folder, name):
    model = random_model(CONFIGS[name])
    tok = CharTokenizer([chr(97 + i) for i in range(20)])
    put(folder, name, model, tok, "float32")
    ids = torch.randint(37, (1, 40))
    script = """const session = new E.Session(await open(given.name));
    return given.ids.map((id) => Array.from(session.feed(id)));"""
    rows = run(page, script, name=name, ids=ids[0].tolist())
    with torch.no_grad(): assert gap(rows, model(ids)[0]) < 1e-5


@needs_browser
def test_attention_is_kept_and_tokens_are_taken_back(page, folder):
    model, config = random_model(CONFIGS["llama"]), CONFIGS["llama"]
    put(folder, "llama", model, CharTokenizer("ab"), "float32")
    script = """const session = new E.Session(await open("llama"));
    for (const id of given.wrong) session.feed(id);
    session.back(3);
    for (const id of given.rest) session.feed(id);
    const rows = (l, h) => session.attention(l, h).map((row) => Array.from(row));
    const maps = given.heads.map(([l, h]) => rows(l, h));
    return { ids: session.ids, length: session.length, maps };"""
    ids = [5, 9, 2, 7, 7, 1]
    heads = [(layer, head) for layer in range(2) for head in range(config.n_head)]
    found = run(page, script, wrong=ids[:3] + [0, 0, 0], rest=ids[3:], heads=heads)
    assert found["ids"] == ids and found["length"] == 6
    theirs = activations(model, torch.tensor([ids])).attentions
    for (layer, head), rows in zip(heads, found["maps"]):
        want = theirs[layer][0, head]
        for t, row in enumerate(rows):
            row = torch.tensor(row, dtype=torch.float32)
            assert len(row) == t + 1 and torch.allclose(row, want[t, :t + 1], atol=1e-5)


def random_texts(n, alphabet, seed=0, longest=40):
    pick = random.Random(seed)
    return ["".join(pick.choices(alphabet, k=pick.randrange(longest))) for _ in range(n)]


def all_scripts():
    "Some of all characters: letters and marks of all scripts, digits, emoji, controls, spaces."
    some = [chr(i) for i in range(0, 0x20000, 7) if not 0xD800 <= i < 0xE000]
    often = list(" \t\r\n\x0b\x0c\x1c\x85\xa0\u2028\u3000\ufeff\u200d'’stremldSTREſK") * 200
    more = list("é́नि👩\u200d👧🏽🇨🇳İßﬆŉ①Ⅷ²۳中文、。ひカ한\U00020000\U000e0100\u0301") * 50
    return some + often + more + [chr(i) for i in range(32, 127)] * 30


def some_texts():
    "Ten thousand: stories, pieces of stories, all scripts, line ends, names of special tokens."
    pick = random.Random(1)
    tales = Tales("en", 2).texts(500, seed=10**8) + Tales("zh", 2).texts(500, seed=10**8)
    parts = [t[pick.randrange(len(t)):][:pick.randrange(60)] for t in tales * 3]
    texts = tales + parts + random_texts(5000, all_scripts())
    names = [END, "<|unk|>", "<|end", "|>", "<|end|><|end|>", " ", "\r\n", "don't", "we'll"]
    return texts + ["".join(pick.choices(names + parts[:50], k=5)) for _ in range(1000)] + ["", " "]


@cache
def tokenizers():
    texts = Tales("en", 2).texts(60) + ["今天天气真好。👩 हिन्दी"] * 3
    qwen = GPT4_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
    found = {name: load_tokenizer(name) for name in HOUSE}
    found["gpt2"] = BPETokenizer.train(texts, 500, split=GPT2_SPLIT, special_tokens=[END, "<|e"])
    found["qwen"] = BPETokenizer.train(texts, 500, split=qwen, special_tokens=["<|end|>", "<|end"])
    found["whole"] = BPETokenizer.train(texts, 600)
    found["whole"].whole_first = True
    found["words"] = WordTokenizer.train(texts, 200)
    found["characters"] = CharTokenizer.train([*some_texts()])
    return found


@pytest.fixture(scope="module")
def cut_texts(): return some_texts()


def with_tok(folder, name, tok):
    "A small model for a tokenizer, written where the page finds it."
    config = GPTConfig("llama", tok.vocab_size, 8, 1, 1, 2)
    return put(folder, f"tok-{name}", GPT(config), tok, "int8")


ENCODE = """const { tok } = await open(given.name);
    return given.texts.map((text) => tok.encode(text, given.allowed));"""


@needs_browser
@pytest.mark.parametrize("name", [*HOUSE, "gpt2", "qwen", "whole", "words", "characters"])
def test_the_tokenizer_is_pythons(page, folder, cut_texts, name):
    tok = tokenizers()[name]
    stored = with_tok(folder, name, tok)
    assert len(cut_texts) > 10_000
    found = run(page, ENCODE, name=stored, texts=cut_texts, allowed=[])
    wrong = [text for text, ids in zip(cut_texts, found) if ids != tok.encode(text)]
    assert not wrong, wrong[:5]
    specials = list(tok.special_tokens)
    for allowed in ["all", specials[:1], specials[-1:]]:
        found = run(page, ENCODE, name=stored, texts=cut_texts[-1200:], allowed=allowed)
        assert found == [tok.encode(text, allowed) for text in cut_texts[-1200:]], allowed


@needs_browser
@pytest.mark.parametrize("name", ["tales-en", "tales-zh", "gpt2", "characters"])
def test_ids_become_the_same_text(page, folder, name):
    tok = tokenizers()[name]
    stored, pick = with_tok(folder, name, tok), random.Random(2)
    known = sorted(tok.pieces)
    rows = [pick.choices(known, k=pick.randrange(20)) for _ in range(2000)]
    if isinstance(tok, BPETokenizer): rows += tok.encode_batch(["\ufeffa", "\ufeff", "👩"])
    script = """const { tok } = await open(given.name);
    return given.rows.map((ids) => [tok.decode(ids), ids.flatMap((id) => [...tok.bytes(id)])]);"""
    for ids, (text, data) in zip(rows, run(page, script, name=stored, rows=rows)):
        assert text == tok.decode(ids) and bytes(data) == b"".join(map(tok.token_bytes, ids))


def test_letters_are_those_of_the_library():
    pattern, classes = page_split(GPT4_SPLIT)
    assert set(classes) == {r"\p{L}", r"\p{N}", r"\s"} and "(?i:" not in pattern
    ends = [int(end, 16) for end in re.findall(r"\w+", classes[r"\p{L}"])]
    assert ends == sorted(ends) and len(ends) > 800
    from tokenizers import Regex, pre_tokenizers

    beyond = "".join(map(chr, [*range(0x33480, 0xE0000, 5), *range(0xE0200, 0x110000, 5)]))
    for kind in (r"\p{L}", r"\p{N}", r"\p{M}", r"\s"):
        assert not pre_tokenizers.Split(Regex(kind), "removed", True).pre_tokenize_str(beyond)


SETTINGS = [{}, dict(temperature=0.0), dict(temperature=0.7), dict(temperature=3.0, topK=5),
            dict(topK=1), dict(topP=0.6), dict(topP=1e-9), dict(topP=1.0), dict(minP=0.2),
            dict(temperature=0.5, topK=9, topP=0.8, minP=0.05), dict(temperature=1e-9),
            dict(penalty=1.5, temperature=0.8), dict(penalty=0.5), dict(topK=10**6), dict(minP=1.0)]
NAMES = dict(temperature="temperature", topK="top_k", topP="top_p", minP="min_p",
             penalty="repetition_penalty")


@needs_browser
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_probabilities_are_the_samplers(page, settings):
    torch.manual_seed(3)
    logits, used, darts = torch.randn(40, 50) * 4, [3, 7, 7, 20], torch.rand(40)
    sampler = Sampler(**{NAMES[key]: value for key, value in settings.items()})
    seen = torch.zeros(40, 50, dtype=torch.bool)
    seen[:, used] = True
    want = sampler.probabilities(logits, seen)
    script = """return given.logits.map((row, i) => [
        Array.from(E.probabilities(row, given.settings)),
        E.sample(row, given.settings, () => given.darts[i])]);"""
    found = run(page, script, logits=logits.tolist(), settings=settings | dict(used=used),
                darts=darts.tolist())
    ours = torch.tensor([probs for probs, _ in found], dtype=torch.float32)
    assert torch.allclose(ours, want, atol=1e-6)
    assert [token for _, token in found] == draw(want, darts).tolist()


@needs_browser
def test_the_same_seed_gives_the_same_text(page, folder):
    model, tok = opened("tales-en")
    put(folder, "tales-en-bfloat16", model, tok, "bfloat16")
    script = """const model = await open("tales-en-bfloat16");
    return given.seeds.map((seed) => {
        const session = new E.Session(model), random = E.seeded(seed);
        let logits = session.feed(model.tok.endId);
        for (let i = 0; i < 60; i++) logits = session.feed(E.sample(logits, {}, random));
        return model.tok.decode(session.ids);
    });"""
    texts = run(page, script, seeds=[1, 2, 1, 3, 2**31, -5, 0])
    assert texts[0] == texts[2] and len(set(texts)) == 6


@needs_browser
def test_random_numbers_are_even(page):
    script = """const random = E.seeded(given.seed);
    return Array.from({ length: 20000 }, random);"""
    for seed in (0, 1, 12345):
        x = torch.tensor(run(page, script, seed=seed))
        assert x.min() >= 0 and x.max() < 1 and abs(x.mean() - 0.5) < 0.01
        bins = torch.histc(x, 20, 0, 1)
        assert bins.min() > 850 and bins.max() < 1150      # 1000 each; 31 is one deviation
        assert abs(torch.corrcoef(torch.stack([x[1:], x[:-1]]))[0, 1]) < 0.03


@needs_browser
def test_it_writes_a_hundred_tokens_a_second(page, folder):
    model, tok = opened("tales-en")
    put(folder, "tales-en-bfloat16", model, tok, "bfloat16")
    script = """const model = await open("tales-en-bfloat16"), rates = [];
    for (let turn = 0; turn < 25; turn++) {
        const session = new E.Session(model), start = performance.now();
        let logits = session.feed(model.tok.endId);
        for (let i = 1; i < 40; i++) logits = session.feed(E.sample(logits, {}, Math.random));
        rates.push(40 / (performance.now() - start) * 1000);
        await new Promise((done) => setTimeout(done, 20));
    }
    return rates;"""
    rates = run(page, script)
    assert max(rates) > 100, rates     # the machine may be busy with other things meanwhile


OPEN = "return told(() => E.openModel(given.url).then((model) => model.config.context));"


def changed(folder, name, change):
    "A copy of a model with one thing changed."
    model, tok = opened("tales-en")
    write_page_model(model, tok, folder / "models" / name)
    change(folder / "models" / name)
    return f"models/{name}"


def rewrite(file, old, new): file.write_text(file.read_text("utf-8").replace(old, new, 1), "utf-8")


def cut(file, share=0.5):
    data = file.read_bytes()
    file.write_bytes(data[:int(len(data) * share)])


FAULTS = {
    "whole": (lambda folder: None, None, ""),
    "half the weights": (lambda f: cut(f / "weights.bin"), "damaged", "weights.bin has 614600 of"),
    "more weights": (lambda f: cut(f / "weights.bin", 2), None, ""),
    "half the description": (lambda f: cut(f / "model.json"), "damaged", "model.json is damaged"),
    "another version": (lambda f: rewrite(f / "model.json", '"version":1', '"version":2'),
                        "version", "model 2, and this page reads gpt_nb page model 1"),
    "another file": (lambda f: (f / "model.json").write_text("[]"), "version", "this page reads"),
    "null": (lambda f: (f / "model.json").write_text("null"), "version", "this page reads"),
    "no weights": (lambda f: (f / "weights.bin").unlink(), "missing", "weights.bin: the server"),
    "nothing": (lambda f: (f / "model.json").unlink(), "missing", "model.json: the server answers"),
}


@needs_browser
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_model_is_one_clear_line(page, folder, fault):
    change, code, said = FAULTS[fault]
    found = run(page, OPEN, url=changed(folder, f"fault-{fault.replace(' ', '-')}", change))
    if code is None: assert found == {"value": opened("tales-en")[0].config.context}
    else: assert found["code"] == code and said in found["said"] and "\n" not in found["said"]


@needs_browser
def test_no_connection_is_one_clear_line(page):
    run(page, "return 0;")   # the engine itself is there
    page.context.set_offline(True)
    try: found = run(page, OPEN.replace("return", "await 0; return"), url="models/none")
    finally: page.context.set_offline(False)
    assert found["code"] == "missing" and "the connection broke" in found["said"]


@needs_browser
def test_opening_tells_how_far_it_is_and_can_be_stopped(page, folder):
    model, tok = opened("tales-en")
    put(folder, "tales-en-int8", model, tok, "int8")
    script = """const seen = [], stop = new AbortController();
    await E.openModel("models/tales-en-int8", { onProgress: (n, of) => seen.push([n, of]) });
    const stopped = told(() => E.openModel("models/tales-en-int8", { signal: stop.signal }));
    stop.abort();
    return [seen, await stopped];"""
    seen, stopped = run(page, script)
    size = (folder / "models/tales-en-int8/weights.bin").stat().st_size
    assert seen[-1] == [size, size] and seen == sorted(seen)
    assert stopped["name"] == "AbortError"


MISUSES = {
    "id": ("session.feed(306)", "id 306 is no token: ids go from 0 to 305"),
    "negative": ("session.feed(-1)", "id -1 is no token"),
    "half": ("session.feed(1.5)", "id 1.5 is no token"),
    "none": ("session.feed(undefined)", "id undefined is no token"),
    "too long": ("Array.from({ length: 999 }, () => session.feed(5))", "context of "),
    "decode": ("model.tok.decode([1, 400])", "id 400 is no token: ids go from 0 to 305"),
    "surrogate": (r'model.tok.encode("a\ud800b")', "half of a surrogate pair"),
    "special": ('model.tok.encode("a", ["<|x|>"])', "<|x|> is no special token"),
    "temperature": ("E.sample([1, 2], { temperature: -1 }, Math.random)", "temperature is -1"),
    "top-k": ("E.probabilities([1, 2], { topK: 0 })", "topK is 0: it should be from 1"),
    "top-p": ("E.probabilities([1, 2], { topP: 1.5 })", "topP is 1.5: it should be from 0 to 1"),
    "NaN": ("E.probabilities([1, 2], { minP: NaN })", "minP is NaN"),
}


@needs_browser
@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_is_one_clear_line(page, folder, misuse):
    model, tok = opened("tales-en")
    put(folder, "tales-en-int8", model, tok, "int8")
    script, said = MISUSES[misuse]
    found = run(page, f"""const model = await open("tales-en-int8");
    const session = new E.Session(model);
    return told(() => {script});""")
    assert found["code"] and said in found["said"], found


@needs_browser
def test_an_unseen_character_is_named(page, folder):
    stored = with_tok(folder, "ab", CharTokenizer("ab"))
    found = run(page, "return told(async () => (await open(given.name)).tok.encode('abé'));",
                name=stored)
    assert found["code"] == "unseen" and '"é" was not in the training text' in found["said"]


def test_the_engine_is_short_and_alone():
    lines = ENGINE.read_text("utf-8").splitlines()
    assert len(lines) <= 440 and max(map(len, lines)) <= 100
    text = "\n".join(lines)
    others = r"^\s*import\b|https?://|Worker|SharedArrayBuffer|\beval\b|navigator"
    assert not re.search(others, text, re.M)


def test_int8_is_near_and_zero_stays_zero():
    weight = torch.randn(20, 64) * torch.logspace(-6, 3, 20)[:, None]
    weight[3] = 0
    whole, scale = to_int8(weight)
    assert whole.dtype == torch.int8 and scale.shape == (20, 1)
    assert ((whole * scale - weight).abs() <= scale / 2 * 1.001).all() and not whole[3].any()


def test_what_a_page_cannot_run_is_refused(tmp_path):
    model, tok = random_model(CONFIGS["qwen3"]), CharTokenizer("ab")
    with pytest.raises(ValueError, match="dtype is 'int4': expected one of"):
        write_page_model(model, tok, tmp_path, "int4")
    with pytest.raises(ValueError, match="has 260 tokens, the model reads 37"):
        write_page_model(model, BPETokenizer.train(["a b c d"] * 3, 300), tmp_path)
    with pytest.raises(TypeError, match="model is a Linear"):
        write_page_model(torch.nn.Linear(2, 2), tok, tmp_path)
    with pytest.raises(TypeError, match="tok is a str"): write_page_model(model, "ab", tmp_path)
    odd = BPETokenizer.train(["a b"], 260, split=r"\w+|\W", special_tokens=[])
    large = random_model(replace(CONFIGS["qwen3"], vocab_size=300))
    with pytest.raises(ValueError, match="cuts text by"): write_page_model(large, odd, tmp_path)
    early = BPETokenizer([(97, 98), (256, 99), (98, 99), (97, 258)])     # abc is made twice
    early.merges[97, 98] = 9, 256
    with pytest.raises(ValueError, match="before it is made"):
        write_page_model(large, early, tmp_path)
    with torch.no_grad(): model.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"): write_page_model(model, tok, tmp_path)
    assert not list(tmp_path.iterdir())


@needs_browser
def test_adapters_are_merged(page, folder):
    model, ids = random_model(CONFIGS["llama"]), [3, 30, 8]
    add_lora(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".adapters." in name: weight.normal_(0, 0.3)
        want = model(torch.tensor([ids]))[0]
    put(folder, "adapted", model, CharTokenizer("ab"), "float32")
    script = """const session = new E.Session(await open("adapted"));
    return given.ids.map((id) => Array.from(session.feed(id)));"""
    assert gap(run(page, script, ids=ids), want) < 1e-5
    with torch.no_grad(): plain = random_model(CONFIGS["llama"])(torch.tensor([ids]))[0]
    assert gap(plain, want) > 0.01


def test_a_page_holds_its_models_and_worlds(tmp_path):
    model, tok = opened("tales-zh")
    write_page(tmp_path, {"tales-zh": (model, tok, Tales("zh", 2)), "mine": (model, tok, None)})
    assert {path.name for path in WEB.iterdir()} <= {path.name for path in tmp_path.iterdir()}
    listed = json.loads((tmp_path / "models.json").read_text())
    assert [entry["name"] for entry in listed] == ["tales-zh", "mine"]
    assert listed[0]["world"] == "world-zh.json" and listed[1]["world"] is None
    assert json.loads((tmp_path / "world-zh.json").read_text()) == json.loads(
        json.dumps(world_data("zh")))
    size = sum(path.stat().st_size for path in (tmp_path / "models" / "mine").iterdir())
    assert listed[1]["bytes"] == size < 3e6 and listed[0]["parameters"] == model.n_params
    for name in ("../up", "", "a/b", ".."):
        with pytest.raises(ValueError, match="name is its folder"):
            write_page(tmp_path, {name: (model, tok, None)})


def test_the_server_is_for_this_machine_and_its_folder(address, folder):
    (folder.parent / "secret.txt").write_text("secret")
    with urllib.request.urlopen(f"{address}/engine.js") as answer:
        assert answer.headers["Content-Type"] == "text/javascript"
    for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/models/../../secret.txt"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(address + path)


def test_the_package_carries_the_page():
    import importlib.metadata
    import runpy
    from unittest import mock

    root = Path(__file__).parent.parent
    with mock.patch("setuptools.setup") as setup, pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        runpy.run_path(str(root / "setup.py"))
    carried = setup.call_args.kwargs["package_data"]["gpt_nb"]
    files = {path for pattern in carried for path in (root / "gpt_nb").glob(pattern)}
    assert set(WEB.iterdir()) <= files and importlib.metadata.version("gpt_nb")
