"Adapters: what they leave as it is, what they change, and a run with them as any other."
import copy

import pytest
import torch
from torch import nn

from gpt_nb.adapters import (LoRA, add_adalora, add_bottleneck, add_ia3, add_lora, add_prefix,
                             add_prompt, attach, load_adapter, merge, ranks, save_adapter,
                             set_adapter, unmerge)
from gpt_nb.finetuning import Classifier, finetune
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.sampling import generate
from gpt_nb.tokenizer import CharTokenizer
from gpt_nb.training import Run

ROWS = [dict(text="ab" * (1 + i % 4) + ("c" if i % 2 else "d"), label="yes" if i % 2 else "no")
        for i in range(32)]
TOK = CharTokenizer.train(["abcd\n"])
BESIDE = [add_lora, add_adalora, add_bottleneck, add_ia3]   # these change nothing at first
BEFORE = [add_prefix, add_prompt]
MERGED = [add_lora, add_adalora, add_ia3]
ALL = BESIDE + BEFORE


def gpt(arch: str = "qwen3") -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(arch, TOK.vocab_size, 16, n_layer=2, n_head=2, d_model=16)).eval()


def shaken(model: nn.Module) -> nn.Module:
    "As if it had been trained."
    torch.manual_seed(1)
    for p in model.parameters():
        if p.requires_grad: p.data += 0.1 * torch.randn_like(p)
    return model


def tune(model: nn.Module, **how) -> Run:
    how = dict(val=0, epochs=4, batch_size=8, show=False) | how
    return finetune(model, ROWS, "classify", TOK, **how)


def body_of(model: nn.Module) -> list:
    "The tensors that a plain body has, wherever they are now."
    found = {}
    for name, p in model.model.named_parameters():
        name = name.replace(".layer.", ".").replace("attention.", "").replace(".table", "")
        if ".adapters." not in name and not name.startswith("adapters."):
            found[name.removeprefix("body.")] = p
    return found


IDS = torch.arange(6)[None].repeat(3, 1) % TOK.vocab_size


@pytest.mark.parametrize("arch", ["qwen3", "qwen2", "llama", "gpt2"])
@pytest.mark.parametrize("add", BESIDE)
def test_first_output_is_that_of_the_body(arch, add):
    assert torch.equal(add(gpt(arch))(IDS), gpt(arch)(IDS))


@pytest.mark.parametrize("arch", ["qwen3", "qwen2", "llama", "gpt2"])
@pytest.mark.parametrize("add", BEFORE)
def test_learned_tokens_change_the_output_until_they_are_off(arch, add):
    model = add(gpt(arch), length=2)
    assert (model(IDS) - gpt(arch)(IDS)).abs().max() > 1e-5
    set_adapter(model, None)
    assert torch.equal(model(IDS), gpt(arch)(IDS))


def test_a_prefix_moves_the_texts_of_a_table_of_positions_on():
    model, plain = add_prefix(add_prompt(gpt("gpt2"), 1, "prompt"), 3, "three"), gpt("gpt2")
    add_prefix(model, 2, "two")
    places, table = torch.arange(4), plain.model.embed_positions.weight
    for names, first in ((None, 0), ("three", 3), (["three", "two"], 5)):
        set_adapter(model, names)
        assert torch.equal(model.model.body.embed_positions(places), table[first:first + 4])
    ids = torch.zeros(1, 12, dtype=torch.long)
    with pytest.raises(ValueError, match="12 tokens .* prefix of 5 leaves: keep the last 11"):
        model(ids)
    assert model(ids[:, 1:]).isfinite().all()
    again = copy.deepcopy(model)
    set_adapter(again, None)                  # of the copy alone
    assert torch.equal(again(ids), plain(ids))
    assert (model(ids[:, 1:]) - plain(ids[:, 1:])).abs().max() > 1e-5


@pytest.mark.parametrize("add", BEFORE)
def test_a_cache_gives_what_one_pass_gives_behind_learned_tokens(add):
    model = shaken(add(gpt("gpt2"), 3))
    cache = model.new_cache(len(IDS))
    parts = [model(IDS[:, :2], cache), *(model(IDS[:, i:i + 1], cache) for i in range(2, 6))]
    assert (torch.cat(parts, 1) - model(IDS)).abs().max() < 1e-5


@pytest.mark.parametrize("add", ALL)
def test_training_moves_the_adapter_and_nothing_else(add):
    model = add(gpt())
    run = tune(model)
    before, after = body_of(gpt()), body_of(run.model)
    assert before.keys() == after.keys()
    for name, p in before.items(): assert torch.equal(p, after[name]), name
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    trained = dict(run.model.named_parameters())
    assert own and all(not torch.equal(p, trained[name]) for name, p in own.items())


@pytest.mark.parametrize("add", ALL)
def test_the_rate_is_that_of_the_method_unless_given(add):
    said = max(m.lr for m in add(gpt()).modules() if hasattr(m, "lr"))
    assert tune(add(gpt()), epochs=0.25).config.lr == said
    assert tune(add(gpt()), epochs=0.25, lr=0.5).config.lr == 0.5


@pytest.mark.parametrize("add", MERGED)
def test_merged_is_unmerged_and_goes_back_bit_for_bit(add):
    model = shaken(add(gpt()))
    before, weights = model(IDS), copy.deepcopy(model.state_dict())
    merge(model)
    assert (model(IDS) - before).abs().max() < 1e-5
    assert (before - gpt()(IDS)).abs().max() > 1e-4
    with pytest.raises(ValueError, match="unmerge first"): merge(model)
    unmerge(model)
    assert all(torch.equal(w, weights[name]) for name, w in model.state_dict().items())
    assert torch.equal(model(IDS), before)


def test_what_cannot_be_merged_says_so_and_changes_nothing():
    model = shaken(add_bottleneck(add_lora(gpt(), name="a"), name="b"))
    set_adapter(model, ["a", "b"])
    before = model(IDS)
    with pytest.raises(ValueError, match="no change of weights"): merge(model)
    assert torch.equal(model(IDS), before)


@pytest.mark.parametrize("add", BESIDE)
def test_rows_in_a_batch_each_with_its_own(add):
    model = shaken(add_lora(add(gpt(), name="a"), name="b"))
    shaken(model)
    said = {}
    for name in ("a", "b", None):
        set_adapter(model, name)
        said[name] = model(IDS)
    set_adapter(model, None, rows=["b", None, "a"])
    mixed = model(IDS)
    for i, name in enumerate(["b", None, "a"]):
        torch.testing.assert_close(mixed[i], said[name][i], atol=1e-5, rtol=0)


def test_dropout_is_off_when_not_training():
    model = shaken(add_lora(gpt(), dropout=0.5))
    assert torch.equal(model(IDS), model(IDS))
    model.train()
    assert not torch.equal(model(IDS), model(IDS))


def test_both_scales():
    assert LoRA(8, 8, 4, 16.0).scale == 8 and LoRA(8, 8, 4, 16.0, rslora=False).scale == 4


@pytest.mark.parametrize("how", [dict(), dict(accumulate=2), dict(epochs=1), dict(epochs=12)])
def test_adalora_meets_its_budget_however_it_is_trained(how):
    model = add_adalora(gpt(), rank=2)
    assert sum(ranks(model).values()) == 14 * 3
    left = ranks(tune(model, **how).model)
    assert sum(left.values()) == 14 * 2
    assert len(set(left.values())) > 1   # not the same in all layers


def test_adalora_keeps_its_directions_near_right_angles():
    run = tune(add_adalora(gpt(), rank=2), epochs=8)
    for module in run.model.modules():
        if not hasattr(module, "Q"): continue
        off = module.Q @ module.Q.T - torch.eye(len(module.Q))
        assert off.abs().max() < 0.35


@pytest.mark.parametrize("add", MERGED)
def test_a_run_is_written_merged_and_opens_like_any(add, tmp_path):
    run = tune(add(gpt()), out=tmp_path / "run")
    opened = Run.open(tmp_path / "run").model
    assert not any("adapters" in name for name, _ in opened.named_parameters())
    assert (opened(IDS) - run.model(IDS)).abs().max() < 1e-5
    assert type(opened) is Classifier


@pytest.mark.parametrize("add", [add_bottleneck, *BEFORE])
def test_a_run_that_cannot_be_written_does_not_begin(add, tmp_path):
    with pytest.raises(ValueError, match="save_adapter"): tune(add(gpt()), out=tmp_path / "run")


@pytest.mark.parametrize("add", [add_lora, add_adalora])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(add, tmp_path, monkeypatch):
    torch.manual_seed(3)
    model = add(gpt())
    whole = tune(model, out=tmp_path / "whole", epochs=6)
    from gpt_nb import training
    update = training.Trainer.update

    def stop(self):
        if self.progress.step == 13: raise KeyboardInterrupt
        update(self)
    monkeypatch.setattr(training.Trainer, "update", stop)
    monkeypatch.setattr(training, "is_due", lambda folder: True)
    with pytest.raises(KeyboardInterrupt):
        tune(model, out=tmp_path / "part", epochs=6, eval_every=4)
    monkeypatch.setattr(training.Trainer, "update", update)
    again = tune(model, out=tmp_path / "part", epochs=6, eval_every=4, resume=True)
    ours, theirs = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(w, theirs[name]) for name, w in ours.items())


@pytest.mark.parametrize("arch", ["qwen3", "gpt2"])
@pytest.mark.parametrize("add", BEFORE)
def test_writing_with_learned_tokens_and_a_cache(arch, add):
    model = add(gpt(arch), length=2)
    ids = [1, 2, 3]
    for _ in range(6): ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    assert list(generate(model, [1, 2, 3], 6, temperature=0)) == ids


def test_prompts_leave_the_whole_context_to_a_text():
    model = add_prompt(gpt(), length=5)
    assert model(torch.zeros(1, 16, dtype=torch.long)).shape[1] == 16
    with pytest.raises(ValueError, match="context"): model(torch.zeros(1, 22, dtype=torch.long))


@pytest.mark.parametrize("add", ALL)
def test_files_go_there_and_back(add, tmp_path):
    model = shaken(add(Classifier(gpt(), ["no", "yes"], 0)))
    save_adapter(model, tmp_path)
    other = load_adapter(Classifier(gpt(), ["no", "yes"], 0), tmp_path, name="other").eval()
    assert (other(IDS) - model.eval()(IDS)).abs().max() < 1e-6
    assert {p.name for p in tmp_path.iterdir()} == {"adapter_config.json",
                                                    "adapter_model.safetensors"}


def test_errors_say_what_is_there():
    with pytest.raises(ValueError, match="no layer is called query: there are down_proj"):
        add_lora(gpt(), targets="query")
    with pytest.raises(ValueError, match="rank is 0"): add_lora(gpt(), rank=0)
    model = add_lora(gpt(), name="a")
    with pytest.raises(ValueError, match="already"): add_lora(model, name="a")
    with pytest.raises(ValueError, match="no dot"): add_lora(model, name="a.b")
    with pytest.raises(ValueError, match="no adapter c: there are a"): set_adapter(model, "c")
    merge(model)
    with pytest.raises(ValueError, match="unmerge first"): add_lora(model, name="b")
    with pytest.raises(ValueError, match="each row"):
        unmerge(model)
        set_adapter(model, None, rows=["a"])
        merge(model)


def test_any_adapter_of_ones_own():
    class Shift(LoRA): pass
    model = attach(gpt(), ["q_proj"], "own", lambda layer, n_in, n_out: Shift(n_in, n_out, 2))
    assert torch.equal(model(IDS), gpt()(IDS)) and len(ranks(model)) == 2


@pytest.mark.parametrize("add", BEFORE)
def test_learned_tokens_are_for_all_rows(add):
    model = add(gpt())
    set_adapter(model, None, rows=["default", None, None])
    with pytest.raises(ValueError, match="all rows"): model(IDS)


@pytest.mark.parametrize("add", ALL)
def test_an_adapter_that_is_off_does_not_move(add):
    model = add(shaken(add_lora(gpt(), name="first")), name="second")
    run = tune(model)
    trained = dict(run.model.named_parameters())
    for name, p in model.named_parameters():
        if ".first." in name: assert torch.equal(p, trained[name]), name


# ---- what would be wrong without a word

def with_two() -> nn.Module:
    return shaken(add_lora(shaken(add_lora(gpt(), name="a")), rank=2, name="b"))


def moved_by(run: Run, model: nn.Module) -> set[str]:
    "The adapters whose numbers a training has changed."
    before, found = dict(model.named_parameters()), set()
    for name, p in run.model.named_parameters():
        if ".adapters." in name and not torch.equal(p, before[name]):
            found.add(name.partition(".adapters.")[2].partition(".")[0])
    return found


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_adapter_that_is_switched_on_is_the_one_that_learns(name):
    model = with_two()
    set_adapter(model, name)
    assert moved_by(tune(model), model) == {name}


def test_all_that_are_on_learn_and_with_none_there_is_nothing_to_train():
    model = with_two()
    set_adapter(model, ["a", "b"])
    assert moved_by(tune(model), model) == {"a", "b"}
    set_adapter(model, None)
    assert not [p for p in model.parameters() if p.requires_grad]
    rows = [dict(text="ab", target="cd")] * 4
    with pytest.raises(ValueError, match="nothing to train"):
        finetune(model, rows, "generate", TOK, val=0, epochs=1, show=False)


@pytest.mark.parametrize("add", MERGED)
def test_what_is_merged_does_not_pretend_to_learn(add):
    model = shaken(add(gpt()))
    merge(model)
    with pytest.raises(ValueError, match="unmerge"): tune(model)
    with torch.no_grad(): model.train()(IDS)            # to use it is no training
    unmerge(model)
    assert moved_by(tune(model), model) == {"default"}


def test_a_merged_model_is_not_switched():
    model = with_two()
    set_adapter(model, "a")
    before = model(IDS)
    merge(model)
    for wanted in ("b", None, "a"):
        with pytest.raises(ValueError, match="unmerge first"): set_adapter(model, wanted)
    assert (model(IDS) - before).abs().max() < 1e-5


@pytest.mark.parametrize("add", BEFORE)
def test_learned_tokens_are_not_merged_in_silence(add):
    with pytest.raises(ValueError, match="no change of weights"): merge(add(gpt()))
    model = add(add_lora(gpt(), name="l"), name="p")
    with pytest.raises(ValueError, match="no change of weights"): merge(model)
    set_adapter(model, "l")
    merge(model)                                        # the tokens are off
    unmerge(model)


def test_nothing_is_not_merged():
    model = add_lora(gpt())
    set_adapter(model, None)
    for one in (gpt(), model):
        with pytest.raises(ValueError, match="nothing to merge"): merge(one)


@pytest.mark.parametrize("rows", [["a", "b"], ["a", "b", None, "a"], []])
def test_names_for_another_number_of_rows_are_refused(rows):
    model = with_two()
    set_adapter(model, None, rows=rows)
    with pytest.raises(ValueError, match=f"{len(rows)} rows.* 3"): model(IDS)


def test_rows_may_be_any_sequence_and_names_stand_once():
    model = with_two()
    set_adapter(model, None, rows=["a", None, "b"])
    said = model(IDS)
    set_adapter(model, None, rows=("a", None, "b"))
    assert torch.equal(model(IDS), said)
    with pytest.raises(ValueError, match="not both"): set_adapter(model, "a", rows=["a"] * 3)
    with pytest.raises(ValueError, match="no adapter 3"): set_adapter(model, 3)
    model = add_prefix(gpt(), name="p")
    said = model(IDS)
    set_adapter(model, ["p", "p"])
    assert torch.equal(model(IDS), said)


def test_texts_are_written_each_by_its_own_adapter():
    model, prompts, alone = with_two(), [[1, 2], [2, 1], [3]], {}
    for name in ("a", "b", None):
        set_adapter(model, name)
        alone[name] = list(generate(model, prompts, 8, temperature=0))
    assert alone["a"] != alone["b"] != alone[None]
    set_adapter(model, None, rows=["b", None, "a"])
    mixed = list(generate(model, prompts, 8, temperature=0))
    assert mixed == [alone["b"][0], alone[None][1], alone["a"][2]]


@pytest.mark.parametrize("add", ALL)
@pytest.mark.parametrize("name", ["keys", "forward", "type", "training", "a.b", "", None, 3])
def test_names_that_a_module_cannot_hold_are_refused_before_anything_is_changed(add, name):
    model = gpt()
    with pytest.raises(ValueError, match="no name for an adapter"): add(model, name=name)
    assert all(p.requires_grad for p in model.parameters())
    add(model, name="心情")
    set_adapter(model, "心情")


@pytest.mark.parametrize("add, what", [
    (add_lora, "rank"), (add_adalora, "rank"), (add_adalora, "first"), (add_bottleneck, "width"),
    (add_prefix, "length"), (add_prompt, "length")])
@pytest.mark.parametrize("size", [0, -1, 2.5, "4", True])
def test_sizes_are_whole_numbers_of_one_or_more(add, what, size):
    model = gpt()
    with pytest.raises(ValueError, match=what): add(model, **{what: size})
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("add", [add_lora, add_adalora])
@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), "16", None])
def test_alpha_is_a_number(add, alpha):
    with pytest.raises(ValueError, match="alpha"): add(gpt(), alpha=alpha)


def test_a_budget_is_no_more_than_what_is_there():
    with pytest.raises(ValueError, match="first is 2"): add_adalora(gpt(), rank=4, first=2)


@pytest.mark.parametrize("targets", [None, [], "", [""], [3], "proj", ["q_proj", "nothing"]])
def test_targets_that_name_no_layer(targets):
    with pytest.raises(ValueError, match="no layer is called"): add_lora(gpt(), targets=targets)


@pytest.mark.parametrize("around", BEFORE)
def test_a_layer_has_its_name_whatever_stands_around_it(around):
    model = add_lora(around(gpt(), name="p"), 2, targets=["self_attn.q_proj"], name="l")
    assert len(ranks(model)) == 2
    whole = "model.layers.1.self_attn.q_proj"
    assert len(ranks(add_lora(around(gpt(), name="p"), 2, targets=whole, name="l"))) == 1


def test_ia3_inputs_are_names_of_layers():
    one, two = add_ia3(gpt(), inputs="down_proj"), add_ia3(gpt(), inputs=["down_proj"])
    assert [m.shape for m in one.parameters()] == [m.shape for m in two.parameters()]
    with pytest.raises(ValueError, match="down_prj"): add_ia3(gpt(), inputs=["down_prj"])


@pytest.mark.parametrize("arch, fits", [("qwen3", 16), ("gpt2", 11)])
def test_a_text_too_long_for_a_prompt_is_told_how_much_fits(arch, fits):
    model = add_prompt(gpt(arch), length=5)
    model(torch.zeros(1, fits, dtype=torch.long))
    with pytest.raises(ValueError, match=f"keep the last {fits}$"):
        model(torch.zeros(1, fits + 1, dtype=torch.long))
