"""`trace` against `transformers` and against the model itself: what it reads is what is there, what
it puts in its place is what goes on, and nothing of it is left behind. Nothing is downloaded."""
import copy
import os

os.environ["HF_HUB_OFFLINE"] = "1"

from threading import Thread

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_nb.adapters import add_bottleneck, add_lora, add_prefix
from gpt_nb.interpret import activation_names, attribution, logit_lens, token_labels, trace
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.sampling import generate
from gpt_nb.tokenizer import BPETokenizer

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SIZES = dict(vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=40)
THEIRS = {
    "gpt2": lambda: transformers.GPT2Config(vocab_size=60, n_positions=40, n_embd=32, n_layer=3,
                                            n_head=4, bos_token_id=0, eos_token_id=0),
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=12),
}
families = pytest.mark.parametrize("family", THEIRS)


def assert_close(a, b, rtol=0): torch.testing.assert_close(a, b, rtol=rtol, atol=1e-5)


def same(x): return x


def their_model(family):
    "A tiny random model of theirs, its weights large enough that nothing is near uniform."
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(THEIRS[family]()).eval()
    for name, w in model.named_parameters():
        with torch.no_grad():
            if w.dim() > 1: w.normal_(0, 0.2)
            else: w.add_(torch.randn_like(w), alpha=0.1)
    model.set_attn_implementation("eager")
    return model


@pytest.fixture
def pair(family, tmp_path):
    theirs = their_model(family)
    theirs.save_pretrained(tmp_path)
    return GPT.from_pretrained(tmp_path).eval(), theirs


@families
@torch.no_grad()
def test_a_trace_is_what_transformers_has(pair):
    "Hidden states and attentions within 1e-5, and logits bit for bit those without a trace."
    ours, theirs = pair
    ids = torch.randint(60, (2, 24))
    want = theirs(ids, output_hidden_states=True, output_attentions=True)
    with trace(ours) as acts: logits = ours(ids)
    assert torch.equal(logits, ours(ids)) and list(acts) == activation_names(ours)
    states = ["embed", "layers.0.resid", "layers.1.resid", "norm"]
    for name, other in zip(states, want.hidden_states, strict=True): assert_close(acts[name], other)
    for i, other in enumerate(want.attentions):
        assert_close(acts[f"layers.{i}.attn.pattern"], other)
        assert_close(acts[f"layers.{i}.attn.pattern.3"], other[:, 3])
    assert_close(acts["logits"], want.logits)


@families
@torch.no_grad()
def test_what_is_put_in_its_own_place_changes_nothing(pair):
    ours, _ = pair
    ids, pad = torch.randint(60, (2, 20)), torch.tensor([0, 6])
    for how in ({}, {"pad": pad}):
        logits = ours(ids, **how)
        for name in activation_names(ours):
            heads = [""] + [".1"] * (".attn." in name and not name.endswith("out"))
            for head in heads:
                with trace(ours, replace={name + head: same}) as acts: again = ours(ids, **how)
                assert not acts
                if name.endswith("pattern"): assert_close(again, logits)
                else: assert torch.equal(again, logits), name


@families
@torch.no_grad()
def test_all_replaced_at_once_and_with_a_cache(pair):
    "Each by itself, whole and head by head; then a text read in parts, as writing does."
    ours, _ = pair
    ids, names = torch.randint(60, (2, 12)), activation_names(ours)
    every = dict.fromkeys([*names, "layers.1.attn.pattern.0", "layers.1.attn.key.1"], same)
    with trace(ours, names, every) as acts: assert_close(ours(ids), ours(ids))
    whole = dict(acts)
    cache, parts = ours.new_cache(2), []
    with trace(ours) as acts:
        for piece in ids.split([5, 6, 1], 1):
            ours(piece, cache)
            parts.append(dict(acts))
    for name in names:
        if name.endswith("pattern"):
            for part, start in zip(parts, (0, 5, 11)):
                n, seen = part[name].shape[2:]
                assert seen == start + n
                assert_close(part[name], whole[name][:, :, start:seen, :seen])
        else:
            dim = 2 if ".attn." in name and not name.endswith("out") else 1
            assert_close(torch.cat([part[name] for part in parts], dim), whole[name], rtol=1e-5)


@families
def test_a_replacement_does_what_a_model_without_the_part_does(pair):
    "A head without its share of the output projection; an MLP whose last matrix is nothing."
    ours, _ = pair
    ids = torch.randint(60, (2, 15))
    with trace(ours, replace={"layers.1.attn.mixed.2": torch.zeros_like}): without = ours(ids)
    with trace(ours, replace={"layers.1.attn.pattern.2": torch.zeros_like}): unseen = ours(ids)
    idle = dict.fromkeys(["layers.0.mlp.hidden", "layers.1.attn.mixed.2"], torch.zeros_like)
    with trace(ours, replace=idle): both = ours(ids)
    with trace(ours, replace={"layers.2.mid": lambda x: 2 * x}): doubled = ours(ids)
    with trace(ours, ["layers.2.mid"]) as acts: ours(ids)
    layer = ours.model.layers[2]
    stream = 2 * acts["layers.2.mid"]
    stream = stream + layer.mlp(layer.post_attention_layernorm(stream))
    assert_close(doubled, ours.lm_head(ours.model.norm(stream)))
    width = ours.config.d_head
    with torch.no_grad():
        ours.model.layers[1].self_attn.o_proj.weight[:, 2 * width:3 * width] = 0
        assert_close(without, ours(ids))
        assert_close(unseen, ours(ids))
        ours.model.layers[0].mlp.down_proj.weight.zero_()
        assert_close(both, ours(ids))


@families
def test_replacing_while_it_writes(pair):
    "A pattern is seen at every step, for the new tokens; what it is replaced by counts."
    ours, _ = pair
    prompts, shapes = [[1, 2, 3, 4], [5, 6]], []

    def note(x):
        shapes.append(tuple(x.shape))
        return x

    plain = generate(ours, prompts, 6, temperature=0)
    with trace(ours, ["logits"], {"layers.0.attn.pattern": note}) as acts:
        assert generate(ours, prompts, 6, temperature=0) == plain
    assert shapes == [(2, 4, 4, 4)] + [(2, 4, 1, n) for n in range(5, 10)]
    assert acts["logits"].shape == (2, 1, 60)

    def only_seven(x): return torch.full_like(x, -1.0).index_fill(-1, torch.tensor(7), 1.0)

    with trace(ours, replace={"logits": only_seven}):
        assert generate(ours, [1, 2], 4, temperature=0) == [1, 2, 7, 7, 7, 7]


@families
def test_padding_changes_no_row(pair):
    ours, _ = pair
    ids, pad = torch.randint(60, (2, 14)), torch.tensor([0, 5])
    with torch.no_grad(), trace(ours) as acts: ours(ids, pad=pad)
    padded = dict(acts)
    with torch.no_grad(), trace(ours) as acts: ours(ids[1:, 5:])
    for name, alone in acts.items():
        row = padded[name][1]
        row = row[..., 5:, 5:] if name.endswith("pattern") else row[..., 5:, :]
        assert_close(row, alone[0])


@families
def test_gradients(pair):
    "A loss on what is recorded reaches the weights; zeros added anywhere give the slope there."
    ours, _ = pair
    ids = torch.randint(60, (2, 10))
    with trace(ours, ["layers.1.resid", "layers.2.attn.pattern"]) as acts: ours(ids)
    (acts["layers.1.resid"].sum() + acts["layers.2.attn.pattern"].pow(2).sum()).backward()
    assert ours.model.layers[0].mlp.down_proj.weight.grad.abs().sum() > 0
    with torch.no_grad(), trace(ours) as acts: start = ours(ids)[:, -1, 7].sum()
    shapes = {name: x.shape for name, x in acts.items()}
    shapes["layers.1.attn.mixed.3"] = acts["layers.1.attn.mixed.3"].shape
    shapes["layers.0.attn.pattern.1"] = acts["layers.0.attn.pattern.1"].shape
    for name, shape in shapes.items():
        zeros = torch.zeros(shape, requires_grad=True)
        with trace(ours, replace={name: lambda x, zeros=zeros: x + zeros}): logits = ours(ids)
        [slope] = torch.autograd.grad(logits[:, -1, 7].sum(), zeros)
        step = 1e-2 * slope / slope.norm()
        with torch.no_grad(), trace(ours, replace={name: lambda x, step=step: x + step}):
            rise = ours(ids)[:, -1, 7].sum() - start
        torch.testing.assert_close(rise, (step * slope).sum(), rtol=0.05, atol=2e-4)


def small(arch="qwen3", **how):
    torch.manual_seed(0)
    model = GPT(GPTConfig(arch, 60, 40, 2, 4, 32, n_kv_head=4 if arch == "gpt2" else 2, **how))
    with torch.no_grad():
        for w in model.parameters():
            if w.dim() > 1: w.normal_(0, 0.2)
    return model.eval()


def listens(model): return any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_nothing_is_left_behind():
    model, ids = small(), torch.randint(60, (1, 8))
    want = model(ids)

    def fail(x): raise RuntimeError("here")

    for name in activation_names(model):
        with pytest.raises(RuntimeError, match="here"):
            with trace(model, replace={name: fail}): model(ids)
        assert not listens(model) and torch.equal(model(ids), want)
    with trace(model) as acts:
        with pytest.raises(ValueError, match="context"): model(torch.zeros(1, 99).long())
        assert torch.equal(model(ids), want)
    assert not listens(model) and torch.equal(acts["logits"], want)


def test_a_call_that_failed_half_way_leaves_no_values():
    "The next call in the same trace works with its own."
    model, tries = small(), []

    def fail_once(x):
        tries.append(1)
        if len(tries) == 1: raise RuntimeError("once")
        return x

    ids = torch.randint(60, (1, 8))
    with trace(model, replace={"layers.0.mid": same, "layers.0.mlp.out": fail_once}):
        with pytest.raises(RuntimeError, match="once"): model(torch.randint(60, (2, 5)))
        again = model(ids)
    assert torch.equal(again, model(ids))


def test_threads_do_not_see_each_other():
    "One records, one replaces, one does neither, all at once on one model."
    model = small()
    texts = [torch.randint(60, (1, 30)) for _ in range(3)]
    zero = {"layers.0.attn.mixed.1": torch.zeros_like, "layers.1.mid": torch.zeros_like}
    plain = [model(ids) for ids in texts]
    with trace(model, replace=zero): changed = model(texts[1])
    odd = []

    def check(i, names, replace, want):
        for _ in range(20):
            if i == 2: got = model(texts[i])
            else:
                with trace(model, names, replace) as acts: got = model(texts[i])
                if not replace and not torch.equal(acts["logits"], want): odd.append(i)
            if not torch.equal(got, want): odd.append(i)

    threads = [Thread(target=check, args=(0, None, None, plain[0])),
               Thread(target=check, args=(1, None, zero, changed)),
               Thread(target=check, args=(2, None, None, plain[2]))]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert odd == [] and not listens(model) and not torch.equal(plain[1], changed)


BAD_NAMES = [
    (["layers.1.atn.pattern"], ValueError, "near it are layers.1.attn.pattern"),
    (["layers.2.resid"], ValueError, "asks for layer 2: there are layers 0 to 1"),
    (["layers.-1.resid"], ValueError, "asks for layer -1"),
    (["layers.0.attn.query.4"], ValueError, "has heads 0 to 3"),
    (["layers.0.attn.key.2"], ValueError, "has heads 0 to 1"),
    (["layers.0.attn.mixed.-1"], ValueError, "asks for head -1"),
    (["layers.0.resid.1"], ValueError, "near it are layers.0.resid"),
    (["layers.0.attn.out.1"], ValueError, "near it are layers.0.attn.out"),
    ([""], ValueError, "no activation is called ''"),
    ("norm", TypeError, r"give a list, \['norm'\]"),
    ([3], TypeError, "3 is no name"),
]


@pytest.mark.parametrize("names, error, match", BAD_NAMES)
def test_names_that_are_none(names, error, match):
    model = small()
    with pytest.raises(error, match=match):
        with trace(model, names): pass
    if isinstance(names, list):
        with pytest.raises(error, match=match):
            with trace(model, replace={names[0]: same}): pass
    assert not listens(model)


@pytest.mark.parametrize("replace, error, match", [
    ({"norm": lambda x: x[0]}, ValueError, r"has shape \(5, 32\).* expected shape \(1, 5, 32\)"),
    ({"norm": lambda x: x.half()}, ValueError, "torch.float16 on cpu: expected .*float32"),
    ({"norm": lambda x: x.to("meta")}, ValueError, "on meta: expected .* on cpu"),
    ({"norm": lambda x: None}, TypeError, "is a NoneType: the function must return a tensor"),
    ({"norm": lambda x: x.tolist()}, TypeError, "is a list"),
    ({"layers.1.attn.pattern.1": lambda x: x[None]}, ValueError, r"expected shape \(1, 5, 5\)"),
    ({"norm": torch.zeros(1, 5, 32)}, TypeError, "give a function"),
    (["norm"], TypeError, "give a dict"),
])
def test_replacements_that_do_not_fit(replace, error, match):
    model = small()
    with pytest.raises(error, match=match):
        with trace(model, replace=replace): model(torch.ones(1, 5).long())
    assert not listens(model)


def test_one_trace_at_a_time():
    "Of one model, in one thread; two models, or one after an error, are fine."
    model, other, ids = small(), small("llama"), torch.ones(1, 5).long()
    with trace(model, ["norm"]) as acts:
        with pytest.raises(ValueError, match="traced already"):
            with trace(model): pass
        with trace(other, ["norm"]) as theirs: other(ids)
        model(ids)
    assert not torch.equal(acts["norm"], theirs["norm"])
    with trace(model) as acts: pass
    with pytest.raises(ValueError, match="'norm' is not recorded, but nothing"): acts["norm"]
    with trace(model, ["layers.0.attn.mixed"]) as acts: model(ids)
    assert acts["layers.0.attn.mixed.3"].shape == (1, 5, 8)
    with pytest.raises(ValueError, match="not recorded"): acts["layers.0.attn.mixed.4"]


def test_what_cannot_be_traced():
    model = small()
    for odd in ("tales-en", None, torch.nn.Linear(2, 2)):
        with pytest.raises(TypeError, match=f"this is a {type(odd).__name__}"):
            with trace(odd): pass
    with pytest.raises(ValueError, match="compiled"):
        with trace(torch.compile(model)): pass
    model.compile()
    with pytest.raises(ValueError, match="compiled"):
        with trace(model): pass


def test_with_adapters():
    "LoRA is part of what is read and adds up; beside a learned prefix there is no pattern."
    model, ids = small(), torch.randint(60, (2, 9))
    add_lora(model, rank=2)
    with torch.no_grad():
        for name, w in model.named_parameters():
            if "adapters" in name: w.normal_(0, 0.3)
    with torch.no_grad(), trace(model) as acts: logits = model(ids)
    assert torch.equal(logits, model(ids)) and list(acts) == activation_names(model)
    w = model.lm_head.weight.detach()
    assert_close(sum(attribution(model, ids, w[3] - w[8]).values()),
                 logits[:, -1, 3] - logits[:, -1, 8])
    model = small()
    add_prefix(model, 3)
    logits = model(ids)
    assert not any("pattern" in name for name in activation_names(model))
    with trace(model, replace=dict.fromkeys(activation_names(model), same)):
        assert torch.equal(model(ids), logits)
    with pytest.raises(ValueError, match="no activation is called 'layers.0.attn.pattern'"):
        with trace(model, ["layers.0.attn.pattern"]): pass


@families
@torch.no_grad()
def test_attributions_sum_to_the_logit(pair):
    "Biases counted, GPT-2's norm too; rows with padding as each alone."
    ours, _ = pair
    ids, pad = torch.randint(60, (3, 18)), torch.tensor([0, 4, 9])
    w = ours.lm_head.weight
    for direction in (w[5], w[5] - w[9], w[torch.tensor([1, 2, 3])]):
        shares = attribution(ours, ids, direction, pad)
        last = ours.model(ids, pad=pad)[:, -1]
        torch.testing.assert_close(sum(shares.values()), (last * direction).sum(-1),
                                   rtol=1e-5, atol=1e-4)
        alone = attribution(ours, ids[2:, 9:], direction[2:] if direction.dim() > 1 else direction)
        for name, share in shares.items():
            torch.testing.assert_close(share[2:], alone[name], rtol=1e-4, atol=1e-4)
    biased = [name for name in shares if name.endswith("bias")]
    assert len(biased) == (4 if ours.config.arch == "gpt2" else 0)


@pytest.mark.parametrize("direction", [5, torch.ones(7), torch.ones(2, 7), torch.tensor(1.0)])
def test_a_direction_that_is_none(direction):
    with pytest.raises(ValueError, match=r"give a row of model.lm_head.weight, \(32,\)"):
        attribution(small(), torch.ones(1, 5).long(), direction)


@families
@torch.no_grad()
def test_the_lens_ends_at_the_model(pair):
    ours, theirs = pair
    ids, pad = torch.randint(60, (2, 18)), torch.tensor([0, 4])
    lens = logit_lens(ours, ids, pad)
    assert lens.shape == (4, 2, 18, 60) and torch.equal(lens[-1], ours(ids, pad=pad))
    states = theirs(ids, output_hidden_states=True).hidden_states
    assert_close(logit_lens(ours, ids)[1], ours.lm_head(ours.model.norm(states[1])))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text("abc 猫狗好🙂é<|>\n", max_size=30))
def test_labels_hold_the_whole_text(text):
    "One for each token; together all that is no space."
    tok = BPETokenizer.train(["猫 狗 ab abc"], vocab_size=262)
    ids = tok.encode(text)
    labels = token_labels(tok, ids)
    assert len(labels) == len(ids)
    said = "".join(label for label in labels if label != "·")
    assert "".join(said.split()) == "".join(text.split())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_any_set_of_names(data):
    "What is recorded is what was asked for, and logits are what they were, bit for bit."
    arch = data.draw(st.sampled_from(["gpt2", "llama", "qwen2", "qwen3"]))
    model, ids = small(arch), torch.randint(60, (2, data.draw(st.integers(1, 9))))
    names = data.draw(st.lists(st.sampled_from(activation_names(model)), unique=True))
    heads = [f"{n}.1" for n in names if ".attn." in n and not n.endswith("out")]
    kept = [n for n in activation_names(model) if not n.endswith("pattern")]
    replace = dict.fromkeys(data.draw(st.lists(st.sampled_from(kept), unique=True)), same)
    with torch.no_grad():
        with trace(model, names + heads, replace) as acts: logits = model(ids)
        assert set(acts) == {*names, *heads} and torch.equal(logits, model(ids))


def test_half_precision():
    model, ids = small().bfloat16(), torch.randint(60, (2, 9))
    with torch.no_grad(), trace(model) as acts: logits = model(ids)
    assert torch.equal(logits, model(ids))
    assert {x.dtype for x in acts.values()} == {torch.bfloat16}
    with torch.no_grad(), torch.autocast("cpu"):
        model = small()
        with trace(model) as acts: logits = model(ids)
        assert torch.equal(logits, model(ids))


def test_the_quick_ways_of_writing(monkeypatch):
    "Large layers that go over to the compiled loop for one row, and packed ones, are read as well."
    import gpt_nb.sampling as sampling

    torch.manual_seed(0)
    model = GPT(GPTConfig("qwen3", 60, 64, 2, 4, 512)).eval()
    with torch.no_grad():
        for w in model.parameters():
            if w.dim() > 1: w.normal_(0, 0.05)
    doubled = {"layers.0.mlp.hidden": lambda x: 2 * x, "layers.1.attn.mixed.1": torch.zeros_like}
    ids = torch.tensor([[1, 2, 3]])
    with trace(model, replace=doubled), torch.no_grad():
        for _ in range(6): ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], 1)
    monkeypatch.setattr(sampling, "PATIENCE", 0)
    for writer in (model, sampling.pack(model)):
        with trace(writer, replace=doubled):
            assert torch.equal(generate(writer, ids[:, :3], 6, temperature=0), ids)
    assert not torch.equal(generate(model, ids[:, :3], 6, temperature=0), ids)


def test_a_copy_made_meanwhile_is_as_the_model_is():
    model = GPT.from_pretrained("growing/003000", dtype=torch.float32).eval()
    ids = torch.randint(60, (1, 9))
    with torch.no_grad(), trace(model, replace={"layers.0.mlp.out": lambda x: 3 * x}):
        twin, changed = copy.deepcopy(model), model(ids)
    with torch.no_grad():
        assert torch.equal(twin(ids), model(ids)) and not torch.equal(changed, model(ids))


def test_a_replacement_that_never_happens_is_told():
    model = GPT.from_pretrained("growing/003000", dtype=torch.float32).eval()
    with pytest.raises(ValueError, match="nothing was replaced"):
        with trace(model, replace={"norm": torch.zeros_like}): pass
    with pytest.raises(KeyError):   # another error comes first
        with trace(model, replace={"norm": torch.zeros_like}): raise KeyError
    with pytest.raises(TypeError, match="list of names"):
        with trace(model, 5): pass
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_attribution_beside_adapters():
    model = GPT.from_pretrained("growing/003000", dtype=torch.float32).eval()
    ids, direction = torch.randint(60, (2, 9)), model.lm_head.weight[5].detach()
    with pytest.raises(ValueError, match="one or 2"): attribution(model, ids, direction[None])
    prefixed, bent = copy.deepcopy(model), copy.deepcopy(model)
    add_prefix(prefixed)
    with torch.no_grad(): logit = prefixed(ids)[:, -1, 5]
    torch.testing.assert_close(sum(attribution(prefixed, ids, direction).values()), logit,
                               atol=1e-4, rtol=0)
    add_bottleneck(bent)
    for name, w in bent.named_parameters():
        if w.requires_grad: w.data.normal_(0, 0.5)
    with pytest.raises(ValueError, match="do not add up"): attribution(bent, ids, direction)
