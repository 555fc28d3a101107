"""Adapters in `peft`'s form: ours opened by `peft`, theirs by us, with equal logits; and what is
refused, with words that say why."""
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import functools
import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gpt_nb.adapters import (IA3, AdaLoRA, LoRA, adapter_names, add_adalora, add_bottleneck,
                             add_ia3, add_lora, add_prefix, add_prompt, attach, load_adapter,
                             merge, ranks, save_adapter, set_adapter, unmerge)
from gpt_nb.finetuning import Classifier, Tagger
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.sampling import generate

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

ARCHS = ["gpt2", "llama", "qwen2", "qwen3"]
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])
AUTO = {"CAUSAL_LM": transformers.AutoModelForCausalLM,
        "SEQ_CLS": transformers.AutoModelForSequenceClassification,
        "TOKEN_CLS": transformers.AutoModelForTokenClassification}
HEADS = {"SEQ_CLS": Classifier, "TOKEN_CLS": Tagger}
TINY = 1e-5


def sizes(arch, **more):
    "A tiny config; grouped queries where the family has them, so that q, k and v differ in shape."
    grouped = {} if arch == "gpt2" else dict(n_kv_head=1)
    return GPTConfig(arch, 40, 32, 2, 2, 16, **grouped | dict(eos_token_id=39)
                     | more)


@functools.cache
def weights(arch, tied):
    "Random weights of some size: no adapter hides behind a body that says nothing."
    torch.manual_seed(1)
    model = GPT(sizes(arch, tie_embeddings=tied))
    with torch.no_grad():
        for w in model.parameters(): w.add_(0.1 * torch.randn_like(w))
    return model.state_dict()


def ours(arch, task="CAUSAL_LM", tied=False):
    tied = tied or arch == "gpt2"
    model = GPT(sizes(arch, tie_embeddings=tied))
    model.load_state_dict(weights(arch, tied))
    if task in HEADS:
        torch.manual_seed(2)
        model = HEADS[task](model, ("good", "bad", "neither"))
        nn.init.normal_(model.score.weight)
    return model.eval()


def theirs(arch, folder, task="CAUSAL_LM", **more):
    "The same model in `transformers`."
    ours(arch, task, **more).save_pretrained(folder)
    return AUTO[task].from_pretrained(folder, dtype=torch.float32).eval()


def stir(model, seed=3):
    "Adapters as training might leave them: what begins as 0 or 1 is moved too."
    torch.manual_seed(seed)
    with torch.no_grad():
        for w in model.parameters():
            if w.requires_grad: w.add_(0.1 * torch.randn_like(w))
    return model.eval()


@torch.no_grad()
def logits(model, ids=IDS):
    out = model(ids)
    return getattr(out, "logits", out)


def apart(a, b): return (logits(a) - logits(b)).abs().max().item()


def with_peft(arch, folder, config, task="CAUSAL_LM", **more):
    "A model of theirs with a stirred adapter, which is written to folder/adapter."
    model = peft.get_peft_model(theirs(arch, folder, task, **more), config)
    stir(model).save_pretrained(folder / "adapter")
    return model


def opened_by_peft(arch, folder, adapter, task="CAUSAL_LM", **more):
    "A model of theirs with an adapter of ours; a warning (of missing keys, say) is an error."
    body = theirs(arch, folder, task, **more)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return peft.PeftModel.from_pretrained(body, adapter).eval()


def edit(folder, **fields):
    "Change an adapter's config."
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def edit_tensors(folder, change):
    "Change an adapter's tensors."
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


# ---- theirs, opened by us

def some(arch): return ["c_attn"] if arch == "gpt2" else ["q_proj", "v_proj"]


def many(arch):
    modern = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return ["c_attn", "c_proj", "c_fc"] if arch == "gpt2" else modern


def first_layer(arch):
    return r".*h\.0\.attn\.c_(attn|proj)" if arch == "gpt2" else r".*layers\.0\..*(q|down)_proj"


def of_one(arch, value):
    "Another number for one layer, or for all of one name."
    at = "h.1.attn.c_attn" if arch == "gpt2" else "layers.1.self_attn.q_proj"
    return {at: value}


def lora(**more):
    def make(arch):
        fields = {key: value(arch) if callable(value) else value for key, value in more.items()}
        usual = dict(r=4, lora_alpha=16, target_modules=some(arch), fan_in_fan_out=arch == "gpt2")
        return peft.LoraConfig(task_type="CAUSAL_LM", **usual | fields)
    return make


def ia3(inputs=None):
    def make(arch):
        if inputs is None: return peft.IA3Config(task_type="CAUSAL_LM", **usual_ia3(arch))
        return peft.IA3Config(task_type="CAUSAL_LM", target_modules=many(arch),
                              feedforward_modules=inputs(arch), fan_in_fan_out=arch == "gpt2")
    return make


def usual_ia3(arch):
    if arch == "gpt2":
        return dict(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"],
                    fan_in_fan_out=True)
    return dict(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])


def adalora(arch):
    return peft.AdaLoraConfig(task_type="CAUSAL_LM", init_r=6, target_r=3, total_step=10, tinit=1,
                              tfinal=2, lora_alpha=12, target_modules=many(arch),
                              fan_in_fan_out=arch == "gpt2")


THEIRS = {
    "some": lora(), "rslora": lora(use_rslora=True), "many": lora(target_modules=many),
    "all-linear": lora(target_modules="all-linear"), "regex": lora(target_modules=first_layer),
    "dropout": lora(lora_dropout=0.5), "alpha is a fraction": lora(lora_alpha=7.5, r=3),
    "rank 1, alpha 1": lora(r=1, lora_alpha=1),
    "other ranks": lora(target_modules=many, rank_pattern=lambda arch: of_one(arch, 2)),
    "other ranks, rslora": lora(use_rslora=True, rank_pattern=lambda arch: of_one(arch, 2)),
    "other alphas": lora(target_modules=many, alpha_pattern=lambda arch: of_one(arch, 40)),
    "alphas by name": lora(alpha_pattern=lambda arch: {some(arch)[0]: 40}),
    "alphas by pattern": lora(alpha_pattern=lambda arch: {f".*1.*{some(arch)[0]}": 40}),
    "one layer": lora(layers_to_transform=[1]), "gaussian": lora(init_lora_weights="gaussian"),
    "ia3": ia3(), "ia3 out": ia3(lambda arch: []),
    "ia3 in": ia3(many), "adalora": adalora}


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kind", THEIRS)
def test_we_open_what_peft_wrote(kind, arch, tmp_path):
    model = with_peft(arch, tmp_path, THEIRS[kind](arch))
    body = ours(arch)
    before = {name: w.clone() for name, w in body.state_dict().items()}
    mine = load_adapter(ours(arch), tmp_path / "adapter")
    assert apart(model, body) > 0.01                     # the adapter says something
    assert apart(model, mine.eval()) < TINY
    merge(mine)
    assert apart(model, mine) < TINY
    unmerge(mine)
    assert apart(model, mine) < TINY
    set_adapter(mine, None)
    assert (logits(mine) == logits(body)).all()          # to the bit
    kept = {name.replace(".layer.", "."): w for name, w in mine.state_dict().items()}
    assert all((kept[name] == w).all() for name, w in before.items())
    assert apart(model.merge_and_unload(), body) > 0.01  # theirs merged is what we opened
    set_adapter(mine, "default")
    assert apart(model.merge_and_unload(), mine) < TINY


@pytest.mark.parametrize("arch", ARCHS)
def test_adalora_with_the_ranks_that_training_left(arch, tmp_path):
    model = peft.get_peft_model(theirs(arch, tmp_path), adalora(arch))
    opt = torch.optim.Adam([w for w in model.parameters() if w.requires_grad], 0.05)
    for step in range(10):
        model(IDS, labels=IDS).loss.backward()
        opt.step()
        model.base_model.update_and_allocate(step)
        opt.zero_grad()
    model.eval().save_pretrained(tmp_path / "adapter")
    pattern = json.loads((tmp_path / "adapter/adapter_config.json").read_text())["rank_pattern"]
    assert pattern and {sum(kept) for kept in pattern.values()} != {6}     # ranks did move
    again = peft.PeftModel.from_pretrained(theirs(arch, tmp_path), tmp_path / "adapter").eval()
    mine = load_adapter(ours(arch), tmp_path / "adapter").eval()
    assert apart(again, mine) < TINY


@pytest.mark.parametrize("how", ["pissa", "olora", "pissa_niter_2"])
def test_what_begins_by_changing_the_body_is_read_as_peft_reads_it_or_refused(how, tmp_path):
    "PiSSA takes its start out of the body's weights: alone, its tensors mean something else."
    with_peft("llama", tmp_path, lora(init_lora_weights=how)("llama"))
    again = peft.PeftModel.from_pretrained(theirs("llama", tmp_path), tmp_path / "adapter").eval()
    try: mine = load_adapter(ours("llama"), tmp_path / "adapter").eval()
    except ValueError as e: assert "init_lora_weights" in str(e)
    else: assert apart(again, mine) < TINY


# ---- ours, opened by peft

OURS = {
    "lora": lambda m: add_lora(m, 4, 16),
    "alpha / rank": lambda m: add_lora(m, 4, 16, rslora=False),
    "one name": lambda m: add_lora(m, 3, 7.5, targets="v_proj"),
    "two names": lambda m: add_lora(m, 2, 8, targets=["q_proj", "down_proj"], rslora=False),
    "ends": lambda m: add_lora(m, 2, 8, targets=["mlp.down_proj", "self_attn.o_proj"]),
    "dropout": lambda m: add_lora(m, 2, 8, dropout=0.5),
    "ia3": add_ia3, "ia3 all": lambda m: add_ia3(m, targets="all"),
    "adalora": lambda m: add_adalora(m, 3)}


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kind", OURS)
def test_peft_opens_what_we_wrote(kind, arch, tmp_path):
    mine = stir(OURS[kind](ours(arch)))
    if (kind, arch) == ("adalora", "gpt2"):              # q, k and v would need one Q
        with pytest.raises(ValueError, match="merge"): save_adapter(mine, tmp_path / "mine")
        return
    save_adapter(mine, tmp_path / "mine")
    model = opened_by_peft(arch, tmp_path, tmp_path / "mine")
    assert apart(mine, ours(arch)) > 0.01
    assert apart(model, mine) < TINY
    again = load_adapter(ours(arch), tmp_path / "mine").eval()
    assert apart(again, mine) < TINY
    merge(mine)
    assert apart(model.merge_and_unload(), mine) < TINY


@pytest.mark.parametrize("arch", [arch for arch in ARCHS if arch != "gpt2"])
def test_peft_opens_an_adalora_whose_ranks_have_moved(arch, tmp_path):
    mine = add_adalora(ours(arch), rank=2).train()
    opt = torch.optim.Adam([w for w in mine.parameters() if w.requires_grad], 0.01)
    budget = next(m.budget for m in mine.modules() if isinstance(m, AdaLoRA))
    for step in range(8):
        mine.loss(IDS[:, :-1], IDS[:, 1:]).backward()
        budget.before_step(step / 7)
        opt.step()
        opt.zero_grad()
    assert sum(ranks(mine).values()) == 2 * len(ranks(mine)) and len(set(ranks(mine).values())) > 1
    save_adapter(mine.eval(), tmp_path / "mine")
    assert apart(opened_by_peft(arch, tmp_path, tmp_path / "mine"), mine) < TINY
    again = load_adapter(ours(arch), tmp_path / "mine").eval()
    assert apart(again, mine) < TINY and ranks(again) == ranks(mine)


def test_an_adapter_of_one_layer_of_two_is_not_put_beside_both(tmp_path):
    mine = stir(add_lora(ours("llama"), 2, targets="layers.0.self_attn.q_proj"))
    save_adapter(mine, tmp_path / "mine")
    assert apart(opened_by_peft("llama", tmp_path, tmp_path / "mine"), mine) < TINY


# ---- heads

@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("task", HEADS)
def test_a_head_travels_with_its_adapter(task, arch, tmp_path):
    mine = stir(add_lora(ours(arch, task), 4, 16))
    save_adapter(mine, tmp_path / "mine")
    assert apart(opened_by_peft(arch, tmp_path, tmp_path / "mine", task), mine) < TINY
    assert apart(load_adapter(ours(arch, task), tmp_path / "mine").eval(), mine) < TINY


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("task", HEADS)
def test_a_head_that_peft_wrote_is_opened(task, arch, tmp_path):
    config = peft.LoraConfig(task_type=task, r=4, lora_alpha=8, target_modules=some(arch),
                             fan_in_fan_out=arch == "gpt2")
    model = with_peft(arch, tmp_path, config, task)
    mine = load_adapter(ours(arch, task), tmp_path / "adapter").eval()
    assert apart(model, ours(arch, task)) > 0.01
    assert apart(model, mine) < TINY


def test_a_head_without_a_place_is_refused(tmp_path):
    save_adapter(stir(add_lora(ours("llama", "SEQ_CLS"), 4)), tmp_path / "mine")
    with pytest.raises(ValueError, match="score"): load_adapter(ours("llama"), tmp_path / "mine")


def test_a_head_of_other_labels_is_refused(tmp_path):
    save_adapter(stir(add_lora(ours("llama", "SEQ_CLS"), 4)), tmp_path / "mine")
    other = Classifier(GPT(sizes("llama")), ("yes", "no"))
    with pytest.raises(ValueError, match="score"): load_adapter(other, tmp_path / "mine")
    assert not adapter_names(other)


# ---- several

def test_adapters_are_switched_as_in_peft(tmp_path):
    model = with_peft("qwen3", tmp_path, lora()("qwen3"))
    second = peft.get_peft_model(theirs("qwen3", tmp_path), lora(r=2, target_modules=many)("qwen3"))
    stir(second, seed=4).save_pretrained(tmp_path / "second")
    model.load_adapter(tmp_path / "second", "b")
    mine = load_adapter(ours("qwen3"), tmp_path / "adapter", "a")
    load_adapter(mine, tmp_path / "second", "b").eval()
    for name, same in (("a", "default"), ("b", "b")):
        model.set_adapter(same)
        set_adapter(mine, name)
        assert apart(model, mine) < TINY
    set_adapter(mine, None)
    with model.disable_adapter(): assert apart(model, mine) < TINY
    model.base_model.set_adapter(["default", "b"])
    set_adapter(mine, ["a", "b"])
    assert apart(model, mine) < TINY


def test_each_row_of_a_batch_has_its_own(tmp_path):
    mine = stir(add_lora(ours("llama"), 4, name="a"))
    stir(add_lora(mine, 2, targets="q_proj", name="b"), seed=4)
    alone = {}
    for name in ("a", "b", None):
        set_adapter(mine, name)
        alone[name] = logits(mine, IDS[:1])
    rows = ["b", None, "a", "b"]
    set_adapter(mine, None, rows=rows)
    mixed = logits(mine, IDS[:1].expand(4, -1))
    for i, name in enumerate(rows): assert (mixed[i] - alone[name][0]).abs().max() < TINY


def test_one_of_several_is_written(tmp_path):
    mine = stir(add_lora(ours("llama"), 4, name="a"))
    stir(add_lora(mine, 2, targets="q_proj", name="b"), seed=4)
    for name in ("a", "b"):
        save_adapter(mine, tmp_path / name, name)
        set_adapter(mine, name)
        assert apart(opened_by_peft("llama", tmp_path, tmp_path / name), mine) < TINY


def test_a_name_is_not_taken_twice(tmp_path):
    save_adapter(stir(add_lora(ours("llama"), 4)), tmp_path / "mine")
    mine = load_adapter(ours("llama"), tmp_path / "mine")
    before = logits(mine)
    with pytest.raises(ValueError, match="default"): load_adapter(mine, tmp_path / "mine")
    with pytest.raises(ValueError, match="default"): add_lora(mine, 2)
    assert (logits(mine) == before).all()


def test_text_is_written_as_with_peft(tmp_path):
    "Token after token, with the cache."
    model = with_peft("qwen3", tmp_path, lora(target_modules=many)("qwen3"))
    mine = load_adapter(ours("qwen3"), tmp_path / "adapter")
    said = model.generate(input_ids=IDS[:1], max_new_tokens=12, do_sample=False, eos_token_id=None,
                          pad_token_id=39)
    assert generate(mine, IDS[0].tolist(), 12, temperature=0) == said[0].tolist()


# ---- bfloat16, tied embeddings

def test_a_body_in_bfloat16_takes_an_adapter_in_float32(tmp_path):
    with_peft("llama", tmp_path, lora(target_modules=many)("llama"))
    exact = load_adapter(ours("llama"), tmp_path / "adapter").eval()
    mine = load_adapter(ours("llama").to(torch.bfloat16), tmp_path / "adapter").eval()
    near = 0.05 * logits(exact).abs().max().item()
    assert (logits(exact) - logits(mine).float()).abs().max() < near
    before = {name: w.clone() for name, w in mine.state_dict().items()}
    merge(mine)
    assert logits(mine).isfinite().all() and apart_float(exact, mine) < near
    unmerge(mine)
    assert all((w == before[name]).all() for name, w in mine.state_dict().items())


def apart_float(a, b): return (logits(a).float() - logits(b).float()).abs().max().item()


@pytest.mark.parametrize("arch", ["gpt2", "qwen2"])
def test_tied_embeddings_stay_tied(arch, tmp_path):
    model = with_peft(arch, tmp_path, lora(target_modules="all-linear")(arch), tied=True)
    mine = load_adapter(ours(arch, tied=True), tmp_path / "adapter").eval()
    merge(mine)
    assert apart(model, mine) < TINY
    assert mine.lm_head.weight is mine.model.embed_tokens.weight


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_of_embeddings_or_the_last_matrix_is_refused_by_name(target, tmp_path):
    with_peft("llama", tmp_path, lora(target_modules=["q_proj", target])("llama"))
    mine = ours("llama")
    with pytest.raises(ValueError, match=target): load_adapter(mine, tmp_path / "adapter")
    assert not adapter_names(mine)


def test_embeddings_of_a_larger_vocabulary_are_refused(tmp_path):
    body = theirs("llama", tmp_path)
    body.resize_token_embeddings(44)
    model = peft.get_peft_model(body, lora()("llama"))
    stir(model).save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    mine = ours("llama")
    with pytest.raises(ValueError, match="embed_tokens|lm_head"):
        load_adapter(mine, tmp_path / "adapter")


# ---- what is refused

def written(folder, arch="llama", config=None):
    "An adapter of theirs, to be spoiled."
    with_peft(arch, folder, (config or lora())(arch))
    return folder / "adapter"


@pytest.mark.parametrize("fields, words", [
    (dict(use_dora=True), "use_dora"), (dict(bias="all"), "bias"), (dict(bias="lora_only"), "bias"),
    (dict(peft_type="VERA"), "VERA"), (dict(peft_type=None), "None"), (dict(peft_type=3), "3"),
    (dict(peft_type=["LORA"]), "LORA"), (dict(peft_type="PROMPT_TUNING"), "PROMPT_TUNING"),
    (dict(lora_alpha=None), "lora_alpha"), (dict(lora_alpha="16"), "lora_alpha"),
    (dict(lora_alpha=float("nan")), "lora_alpha"), (dict(lora_dropout=2), "dropout"),
    (dict(alpha_pattern=[1]), "alpha_pattern"), (dict(alpha_pattern={"(": 3}), "alpha_pattern"),
    (dict(layer_replication=[[0, 1]]), "layer_replication"), (dict(lora_bias=True), "lora_bias")])
def test_a_config_that_we_cannot_follow_is_refused(fields, words, tmp_path):
    folder, mine = written(tmp_path), ours("llama")
    edit(folder, **fields)
    with pytest.raises(ValueError, match=words): load_adapter(mine, folder)
    assert not adapter_names(mine) and apart(mine, ours("llama")) == 0


def test_the_rank_of_the_config_and_of_the_tensors_agree(tmp_path):
    "The scale depends on it."
    folder = written(tmp_path)
    edit(folder, r=16)
    with pytest.raises(ValueError, match="rank|r is"): load_adapter(ours("llama"), folder)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "..\\..\\x", "a/../../b", ""])
def test_the_name_of_the_body_is_not_opened(name, tmp_path):
    folder = written(tmp_path)
    mine = load_adapter(ours("llama"), folder)
    edit(folder, base_model_name_or_path=name)
    assert apart(load_adapter(ours("llama"), folder), mine) == 0


def test_a_pickle_is_not_opened(tmp_path):
    folder = written(tmp_path)
    torch.save({}, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="pickle"): load_adapter(ours("llama"), folder)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="adapter_config.json"):
        load_adapter(ours("llama"), tmp_path)
    with pytest.raises(FileNotFoundError, match="adapter_config.json"):
        load_adapter(ours("llama"), tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"LORA"', "\ufeff{}"])
def test_a_damaged_config_is_one_clear_error(text, tmp_path):
    folder = written(tmp_path)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError): load_adapter(ours("llama"), folder)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, -1])
def test_a_file_that_was_cut_off_is_one_clear_error(keep, tmp_path):
    folder, mine = written(tmp_path), ours("llama")
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="damaged|cut off"): load_adapter(mine, folder)
    assert not adapter_names(mine)


def without(part): return lambda tensors: {k: w for k, w in tensors.items() if part not in k}


def moved(old, new): return lambda tensors: {k.replace(old, new): w for k, w in tensors.items()}


SPOILED = {
    "no tensors": (lambda tensors: {}, "no tensors|empty|nothing|holds no"),
    "no B": (without("lora_B"), "lora_B"), "no A": (without("lora_A"), "lora_A"),
    "no B in one layer": (without("1.self_attn.q_proj.lora_B"), "lora_B"),
    "a layer too many": (moved("layers.1.", "layers.9."), "layers.9"),
    "another part": (moved("q_proj", "x_proj"), "x_proj"),
    "wrong prefix": (moved("base_model.model.model.", "base_model.model.base_model.model.model."),
                     "layer"),
    "another kind": (moved("lora_A", "hada_w1"), "hada_w1|lora_A"),
    "flat": (lambda tensors: {k: w.flatten() for k, w in tensors.items()}, "shape|rank"),
    "not a number": (lambda tensors: {k: w * float("nan") for k, w in tensors.items()},
                     "not finite|nan|NaN|finite"),
    "whole numbers": (lambda tensors: {k: w.to(torch.int8) for k, w in tensors.items()},
                      "int8|dtype|float")}


@pytest.mark.parametrize("how", SPOILED)
def test_tensors_that_do_not_fit_are_one_clear_error(how, tmp_path):
    folder, mine = written(tmp_path), ours("llama")
    change, words = SPOILED[how]
    edit_tensors(folder, change)
    with pytest.raises(ValueError, match=words): load_adapter(mine, folder)
    assert not adapter_names(mine) and apart(mine, ours("llama")) == 0


def test_keys_without_the_wrapper_are_read_too(tmp_path):
    "As other programs write them."
    folder = written(tmp_path)
    mine = load_adapter(ours("llama"), folder)
    edit_tensors(folder, moved("base_model.model.", ""))
    assert apart(load_adapter(ours("llama"), folder), mine) == 0


@pytest.mark.parametrize("wrote", ARCHS)
@pytest.mark.parametrize("reads", ARCHS)
def test_an_adapter_of_another_family_is_refused_or_fits(wrote, reads, tmp_path):
    "Llama's and Qwen's layers have the same names: where the shapes agree, nothing tells."
    folder, mine = written(tmp_path, wrote, lora(target_modules=many)), ours(reads)
    if (wrote == "gpt2") == (reads == "gpt2"):
        load_adapter(mine, folder)
        return
    with pytest.raises(ValueError, match="does not have|no layer"): load_adapter(mine, folder)
    assert not adapter_names(mine)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("other", [dict(d_model=32), dict(n_layer=1)])
def test_an_adapter_of_another_shape_is_refused(other, arch, tmp_path):
    folder = written(tmp_path, arch, lora(target_modules=many))
    shape = dict(n_layer=2, d_model=16) | other
    mine = GPT(GPTConfig(arch, 40, 32, shape["n_layer"], 2, shape["d_model"]))
    before = {name: w.clone() for name, w in mine.state_dict().items()}
    with pytest.raises(ValueError, match="shape|does not have"): load_adapter(mine, folder)
    assert not adapter_names(mine)
    assert all((w == before[name]).all() for name, w in mine.state_dict().items())


def test_targets_that_match_nothing_are_refused():
    for targets in ("c_attn", ["q_proj", "nothing"], [], ["q"]):
        mine = ours("llama")
        with pytest.raises(ValueError, match="layer"): add_lora(mine, 2, targets=targets)
        assert not adapter_names(mine)


# ---- prompts and prefixes

def prompt(kind, arch):
    make = peft.PromptTuningConfig if kind == "prompt" else peft.PrefixTuningConfig
    return make(task_type="CAUSAL_LM", num_virtual_tokens=3)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_prompts_and_prefixes_go_both_ways(kind, arch, tmp_path):
    model = with_peft(arch, tmp_path, prompt(kind, arch))
    mine = load_adapter(ours(arch), tmp_path / "adapter").eval()
    before = logits(ours(arch))
    assert (logits(mine) - before).abs().max() > 0.01
    said = logits(model)[:, -IDS.shape[1]:]              # theirs speaks of the prompt too
    assert (said - logits(mine)).abs().max() < TINY
    save_adapter(mine, tmp_path / "mine")
    again = opened_by_peft(arch, tmp_path, tmp_path / "mine")
    assert (logits(again)[:, -IDS.shape[1]:] - logits(mine)).abs().max() < TINY
    set_adapter(mine, None)
    assert (logits(mine) == before).all()


@pytest.mark.parametrize("arch", ["qwen3", "gpt2"])
@pytest.mark.parametrize("add", [add_prefix, add_prompt])
def test_what_we_learned_before_a_text_is_opened_by_peft(add, arch, tmp_path):
    mine = stir(add(ours(arch), 4))
    save_adapter(mine, tmp_path / "mine")
    model = opened_by_peft(arch, tmp_path, tmp_path / "mine")
    assert (logits(model)[:, -IDS.shape[1]:] - logits(mine)).abs().max() < TINY


@pytest.mark.parametrize("add", [add_prefix, add_prompt])
def test_a_lora_beside_a_prompt_is_written_alone(add, tmp_path):
    mine = stir(add_lora(add(ours("llama"), name="p"), 4, name="a"))
    save_adapter(mine, tmp_path / "mine", "a")
    set_adapter(mine, "a")
    assert apart(opened_by_peft("llama", tmp_path, tmp_path / "mine"), mine) < TINY


# ---- bottlenecks, which only we open

@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("task", ["CAUSAL_LM", *HEADS])
def test_a_bottleneck_goes_there_and_back(task, arch, tmp_path):
    mine = stir(add_bottleneck(ours(arch, task), 3, targets="all"))
    save_adapter(mine, tmp_path / "mine")
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors"]
    assert apart(mine, ours(arch, task)) > 0.01
    again = load_adapter(ours(arch, task), tmp_path / "mine", "b").eval()
    assert apart(again, mine) == 0 and adapter_names(again) == ["b"]


def test_peft_does_not_open_a_bottleneck_and_says_its_name(tmp_path):
    save_adapter(add_bottleneck(ours("llama")), tmp_path / "mine")
    with pytest.raises((KeyError, ValueError), match="BOTTLENECK"):
        peft.PeftModel.from_pretrained(theirs("llama", tmp_path), tmp_path / "mine")


def test_a_bottleneck_inside_a_prefix_and_a_prompt(tmp_path):
    mine = stir(add_bottleneck(add_prompt(add_prefix(ours("llama"), name="p"), name="q"), name="b"))
    save_adapter(mine, tmp_path / "mine", "b")
    again = load_adapter(ours("llama"), tmp_path / "mine").eval()
    set_adapter(mine, "b")
    assert apart(again, mine) == 0 and apart(mine, ours("llama")) > 0.01


@pytest.mark.parametrize("change, words", [
    (without("down.bias"), "no down.bias"), (moved("bottleneck_up", "bottleneck_side"), "no up"),
    (moved("layers.1.", "layers.9."), "layers.9"), (lambda tensors: {}, "no tensors"),
    (lambda tensors: {k: w.flatten() for k, w in tensors.items()}, "dimensions"),
    (lambda tensors: {k: w.repeat(2, *[1] * (w.dim() - 1)) for k, w in tensors.items()}, "shape"),
    (lambda tensors: {k: w * float("inf") for k, w in tensors.items()}, "finite")])
def test_a_damaged_bottleneck_is_refused(change, words, tmp_path):
    save_adapter(stir(add_bottleneck(ours("llama"))), tmp_path / "mine")
    edit_tensors(tmp_path / "mine", change)
    mine = ours("llama")
    with pytest.raises(ValueError, match=words): load_adapter(mine, tmp_path / "mine")
    assert not adapter_names(mine) and apart(mine, ours("llama")) == 0


# ---- prompts and prefixes before a head, which only we open

@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("add", [add_prefix, add_prompt])
@pytest.mark.parametrize("task", HEADS)
def test_a_prompt_before_a_head_goes_there_and_back(task, arch, add, tmp_path):
    mine = stir(add(ours(arch, task), 3))
    save_adapter(mine, tmp_path / "mine")
    assert apart(mine, ours(arch, task)) > 0.01
    again = load_adapter(ours(arch, task), tmp_path / "mine", "b").eval()
    assert apart(again, mine) < TINY and adapter_names(again) == ["b"]
    other = HEADS["SEQ_CLS" if task == "TOKEN_CLS" else "TOKEN_CLS"]
    for wrong in (ours(arch), other(GPT(sizes(arch)), ("yes", "no"))):
        with pytest.raises(ValueError, match="head|score|prompt_embeddings"):
            load_adapter(wrong, tmp_path / "mine")
        assert not adapter_names(wrong)


def test_peft_does_not_open_a_prompt_before_a_head(tmp_path):
    save_adapter(add_prompt(ours("llama", "SEQ_CLS")), tmp_path / "mine")
    with pytest.raises((KeyError, ValueError), match="PROMPT_TUNING_WITH_HEAD"):
        peft.PeftModel.from_pretrained(theirs("llama", tmp_path, "SEQ_CLS"), tmp_path / "mine")


# ---- what would be wrong without a word

@pytest.mark.parametrize("add", [add_lora, add_adalora, add_ia3])
def test_a_tensor_that_is_not_known_is_not_passed_over(add, tmp_path):
    "Such as the magnitudes of a DoRA whose config does not say that it is one."
    save_adapter(stir(add(ours("llama"))), tmp_path / "mine")

    def with_magnitude(tensors):
        at = next(iter(tensors)).rpartition("_proj.")[0] + "_proj"
        return tensors | {f"{at}.lora_magnitude_vector": torch.ones(32)}

    edit_tensors(tmp_path / "mine", with_magnitude)
    with pytest.raises(ValueError, match="magnitude"):
        load_adapter(ours("llama"), tmp_path / "mine")


@pytest.mark.parametrize("add", [add_lora, add_adalora, add_ia3])
@pytest.mark.parametrize("change", [torch.Tensor.flatten, torch.Tensor.sum, lambda w: w[:0]])
def test_tensors_of_no_such_shape_are_one_clear_error(change, add, tmp_path):
    save_adapter(stir(add(ours("llama"))), tmp_path / "mine")
    edit_tensors(tmp_path / "mine", lambda tensors: {k: change(w) for k, w in tensors.items()})
    with pytest.raises(ValueError, match="shape|rank"):
        load_adapter(ours("llama"), tmp_path / "mine")


def test_a_second_head_does_not_take_the_place_of_the_first(tmp_path):
    for i in range(2):
        save_adapter(stir(add_lora(ours("llama", "SEQ_CLS"), 4), seed=i), tmp_path / str(i))
    mine = load_adapter(ours("llama", "SEQ_CLS"), tmp_path / "0", "a").eval()
    before = logits(mine)
    with pytest.raises(ValueError, match="head"): load_adapter(mine, tmp_path / "1", "b")
    assert adapter_names(mine) == ["a"] and (logits(mine) == before).all()
    load_adapter(mine, tmp_path / "0", "the same head").eval()
    assert (logits(mine) == before).all()


def test_a_kind_of_ones_own_is_not_written_as_another(tmp_path):
    class Twice(LoRA):
        def after(self, x, y): return y + 2 * (super().after(x, y) - y)

    mine = attach(ours("llama"), "q_proj", "own", lambda layer, n_in, n_out: Twice(n_in, n_out, 2))
    with pytest.raises(ValueError, match="Twice"): save_adapter(mine, tmp_path / "mine")

    def make(layer, n_in, n_out):
        return LoRA(n_in, n_out, 2) if layer == "q_proj" else IA3(n_in, n_out, inputs=False)

    mine = attach(ours("llama"), ["q_proj", "v_proj"], "both", make)
    with pytest.raises(ValueError, match="kinds"): save_adapter(mine, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("stopped_at", ["save_file", "write_sorted"])
def test_a_save_that_was_stopped_leaves_an_adapter_or_none(stopped_at, tmp_path, monkeypatch):
    "Never the tensors of one with the config of another."
    old = stir(add_lora(ours("llama"), 4, alpha=8))
    save_adapter(old, tmp_path / "mine")

    def stop(*given): raise KeyboardInterrupt
    with monkeypatch.context() as patched:
        patched.setattr(f"gpt_nb.adapters.{stopped_at}", stop)
        with pytest.raises(KeyboardInterrupt):
            save_adapter(stir(add_lora(ours("llama"), 4, alpha=32), seed=5), tmp_path / "mine")
    if stopped_at == "save_file":
        assert apart(load_adapter(ours("llama"), tmp_path / "mine").eval(), old) < TINY
    else:
        with pytest.raises(FileNotFoundError, match="adapter_config.json"):
            load_adapter(ours("llama"), tmp_path / "mine")
    save_adapter(old, tmp_path / "mine")
    assert apart(load_adapter(ours("llama"), tmp_path / "mine").eval(), old) < TINY
    assert len(list((tmp_path / "mine").iterdir())) == 2


@pytest.mark.parametrize("add", [add_prefix, add_prompt])
def test_a_prompt_for_another_model_is_refused(add, tmp_path):
    save_adapter(add(ours("llama")), tmp_path / "mine")
    other = GPT(GPTConfig("llama", 40, 32, 3, 2, 24))
    with pytest.raises(ValueError, match="shape"): load_adapter(other, tmp_path / "mine")
    with pytest.raises(ValueError, match="Classifier"):
        load_adapter(ours("llama", "SEQ_CLS"), tmp_path / "mine")
    assert not adapter_names(other)
