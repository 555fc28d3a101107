"One body, every task: heads as `transformers` has them, fine-tuning, resuming, predicting."
import json
import random
import signal
import warnings

import numpy as np
import pytest
import torch

from gpt_nb.checkpoint import FAMILIES, load_tokenizer, read_labels
from gpt_nb.finetuning import (Classifier, Encoder, Examples, RowBatches, Tagger, assess, finetune,
                               pad_of, pad_rows, predict, word_pieces)
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.tokenizer import BPETokenizer, CharTokenizer
from gpt_nb.training import Run, read_log

FRUITS = {"red": "a cherry", "green": "a lime", "blue": "a plum", "yellow": "a lemon"}
NAMES, THINGS = ["Ann", "Bob", "Carl", "Dora"], ["tea", "rice", "milk", "bread", "salt"]
TASKS = ["classify", "tag", "generate"]
HEADS = {"SequenceClassification": Classifier, "TokenClassification": Tagger}


def rows_for(task, n=48, seed=0):
    "Examples of something that is learned in seconds."
    rng, rows = random.Random(seed), []
    for _ in range(n):
        words = rng.choices(THINGS, k=rng.randint(1, 6))
        if task == "classify":
            label = rng.choice(["bad", "good"])
            rows.append(dict(text=" ".join(["the", label, *words]), label=label))
        elif task == "tag":
            at, name = rng.randint(0, len(words)), rng.choice(NAMES)
            words.insert(at, name)
            tags = ["B-PER" if word == name else "O" for word in words]
            rows.append(dict(words=words, tags=tags))
        else:
            color = rng.choice(list(FRUITS))
            rows.append(dict(text=" ".join([*words, color]), target=FRUITS[color]))
    return rows


def inputs_for(task, n=23, seed=1):
    "What is asked, and what is right."
    rows = rows_for(task, n, seed)
    asked, answer = ("words", "tags") if task == "tag" else ("text", "label")
    return [row[asked] for row in rows], [row.get(answer, row.get("target")) for row in rows]


@pytest.fixture(scope="module")
def tok():
    texts = [" ".join(row["words"]) for row in rows_for("tag", 200)]
    texts += [row["text"] for row in rows_for("classify", 200)]
    texts += [f"{row['text']}\n{row['target']}" for row in rows_for("generate", 200)]
    return BPETokenizer.train(texts, 330)


def tiny(arch, tok, context=64, seed=0, **more):
    "A random body whose biases and norms are random too."
    torch.manual_seed(seed)
    ends = dict(bos_token_id=tok.end_id, eos_token_id=tok.end_id)
    gpt = GPT(GPTConfig(arch, tok.vocab_size, context, 2, 2, 32, **ends | more)).eval()
    with torch.no_grad():
        for p in gpt.parameters(): p.add_(0.05 * torch.randn_like(p))
    return gpt


def state_of(model): return {name: w.clone() for name, w in model.state_dict().items()}


def same_state(a, b):
    "Names whose tensors are not the same bit for bit."
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def go(gpt, tok, task, n=48, **more):
    "A short run."
    usual = dict(epochs=2, batch_size=8, show=False, val=rows_for(task, 16, 2))
    return finetune(gpt, rows_for(task, n), task, tok, **usual | more)


def without_times(history):
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in history]


# ---- the same logits as transformers

def batch_of(vocab, pad, seed=0):
    "Rows of 1 to 9 tokens, none of them the one that pads, padded on the right."
    rng = np.random.default_rng(seed)
    ids = [i for i in range(vocab) if i != pad]
    rows = [(rng.choice(ids, n).tolist(), [0] * n) for n in (9, 1, 4, 7, 2)]
    return pad_rows(rows, pad)


def same_logits(ours, theirs, seed=0):
    "Whether both say the same of a padded batch, and of each row by itself."
    x, y = batch_of(ours.config.vocab_size, ours.pad, seed)
    inside = y != -100
    with torch.no_grad():
        a, b = ours(x), theirs(input_ids=x, attention_mask=inside.long()).logits
        if isinstance(ours, Tagger): a, b = a[inside], b[inside]
        alone = [ours(row[mask][None]) for row, mask in zip(x, inside)]
    if isinstance(ours, Tagger): alone = [part[0] for part in alone]
    assert a.std() > 1e-3                     # it says something
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a, torch.cat(alone), rtol=1e-4, atol=1e-5)


def with_random_head(model):
    with torch.no_grad():
        for p in model.score.parameters(): p.normal_()
    return model.eval()


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("arch", FAMILIES)
def test_what_we_save_transformers_opens_with_the_same_logits(arch, kind, tok, tmp_path):
    transformers = pytest.importorskip("transformers")
    auto = getattr(transformers, f"AutoModelFor{kind}")
    for n in (2, 3, 4):
        labels = tuple("wxyz"[:n])
        more = dict(n_kv_head=1) if arch != "gpt2" else {}
        ours = with_random_head(HEADS[kind](tiny(arch, tok, **more), labels))
        ours.save_pretrained(tmp_path / str(n))
        theirs, info = auto.from_pretrained(tmp_path / str(n), output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert theirs.config.id2label == dict(enumerate(labels))
        same_logits(ours, theirs.eval())
        again = HEADS[kind].from_pretrained(tmp_path / str(n))
        assert again.labels == labels and again.pad == ours.pad == tok.end_id
        assert not same_state(ours.state_dict(), again.state_dict())


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("arch", FAMILIES)
def test_what_transformers_saves_we_open_with_the_same_logits(arch, kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = dict(vocab_size=50, pad_token_id=3, bos_token_id=1, eos_token_id=2)
    if arch == "gpt2": sizes |= dict(n_embd=32, n_layer=2, n_head=2, n_positions=32)
    else: sizes |= dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
                        num_key_value_heads=2, intermediate_size=64, max_position_embeddings=32)
    auto = getattr(transformers, f"AutoModelFor{kind}")
    for n in (2, 3, 4):   # two have the names LABEL_0 and LABEL_1, which are not written
        config = transformers.AutoConfig.for_model(arch, **sizes, num_labels=n)
        torch.manual_seed(n)
        theirs = auto.from_config(config).eval()
        with torch.no_grad():
            for p in theirs.parameters(): p.add_(0.1 * torch.randn_like(p))
        theirs.save_pretrained(tmp_path / str(n))
        ours = HEADS[kind].from_pretrained(tmp_path / str(n))
        assert ours.labels == tuple(f"LABEL_{i}" for i in range(n)) and ours.pad == 3
        same_logits(ours, theirs)


def test_labels_that_transformers_leaves_out_are_its_two(tmp_path):
    assert read_labels({}) == ("LABEL_0", "LABEL_1")
    assert read_labels({"id2label": {"1": "b", "0": "a"}}) == ("a", "b")


# ---- labels and folders that cannot be

@pytest.mark.parametrize("labels, why", [
    (("a", "b", "a"), "labels stand twice: a"), (("a",), "at least two"), ((), "at least two"),
    (("a", ""), "a label is a text, not ''"), (("a", 3), "a label is a text, not 3")])
@pytest.mark.parametrize("cls", [Classifier, Tagger])
def test_labels_that_cannot_be(cls, labels, why, tok):
    with pytest.raises(ValueError, match=why): cls(tiny("qwen3", tok), labels)


@pytest.mark.parametrize("names, why", [
    (None, "no id2label"), (["a", "b"], "no id2label"), ({"0": "a", "2": "b"}, "does not number"),
    ({"0": "a", "1": "a"}, "labels stand twice: a"), ({"0": "a"}, "at least two"),
    ({"0": "a", "1": None}, "a label is a text")])
def test_a_config_with_labels_that_cannot_be(names, why, tok, tmp_path):
    Classifier(tiny("qwen3", tok), ("a", "b")).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": names}))
    with pytest.raises(ValueError, match=f"config.json of .*{why}"):
        Classifier.from_pretrained(tmp_path)


@pytest.mark.parametrize("labels", [None, {"0": "a", "1": "b", "2": "c"}])
def test_labels_that_do_not_fit_the_weights(labels, tok, tmp_path):
    Classifier(tiny("qwen3", tok), tuple("wxyz")).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    fields.pop("id2label")
    path.write_text(json.dumps(fields | ({"id2label": labels} if labels else {})))
    n = len(labels or "01")
    with pytest.raises(ValueError, match=rf"score.weight is \(4, 32\) and should be \({n}, 32\)"):
        Classifier.from_pretrained(tmp_path)


@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_the_wrong_class_for_a_folder_says_which_is_right(arch, tok, tmp_path):
    gpt, labels = tiny(arch, tok), ("a", "b")
    made = {GPT: gpt, Classifier: Classifier(gpt, labels), Tagger: Tagger(gpt, labels)}
    for cls, model in made.items(): model.save_pretrained(tmp_path / cls.__name__)
    for cls in made:
        for other in made:
            if other is cls:
                assert type(cls.from_pretrained(tmp_path / cls.__name__)) is cls
                continue
            name = other.__name__
            with pytest.raises(ValueError, match=f"is no {cls.__name__}: .*{name}.from_pretrained"):
                cls.from_pretrained(tmp_path / name)


def test_what_is_no_plain_gpt_is_refused(tok, tmp_path):
    run = go(tiny("qwen3", tok), tok, "classify", epochs=0.5, out=tmp_path / "run")
    for given in (run, run.model, tmp_path / "run"):
        with pytest.raises(TypeError, match="Classifier: give the GPT it was made from"):
            go(given, tok, "tag")
    with pytest.raises(TypeError, match="give a Run, a GPT or a folder"): go(3, tok, "tag")
    with pytest.raises(ValueError, match="give tok="): go(tiny("qwen3", tok), None, "tag")
    with pytest.raises(ValueError, match="pad is 9999"):
        Classifier(tiny("qwen3", tok), ("a", "b"), pad=9999)


# ---- padding changes nothing

@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_padding_changes_no_result(arch, tok):
    for task in TASKS:
        run, (asked, _) = go(tiny(arch, tok), tok, task, n=96, epochs=6), inputs_for(task)
        alone = [predict(run, [one])[0] for one in asked]
        for size in (1, 3, 8, 100): assert predict(run, asked, batch_size=size) == alone
        assert len({str(said) for said in alone}) > 1      # it says different things
        assert predict(run, []) == []
        if task != "classify": continue
        assert predict(run, [], proba=True).shape == (0, 2)
        p = predict(run, asked, batch_size=1, proba=True)
        assert p.shape == (len(asked), 2)
        torch.testing.assert_close(p.sum(1), torch.ones(len(asked)))
        torch.testing.assert_close(p, predict(run, asked, batch_size=100, proba=True))
        assert [run.model.labels[i] for i in p.argmax(1)] == alone


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_and_its_gradient_do_not_depend_on_padding(task, tok):
    gpt, labels = tiny("qwen3", tok), {"classify": ("bad", "good"), "tag": ("B-PER", "O")}
    head = {"classify": Classifier, "tag": Tagger}.get(task)
    model = with_random_head(head(gpt, labels[task])) if head else gpt
    encode = Encoder(task, tok, labels.get(task, ()), 64)
    rows, losses, slopes = [encode(e) for e in rows_for(task, 6)], [], []
    for pad, width in [(tok.end_id, None), (tok.end_id, 60), (5, 60)]:
        model.zero_grad()
        loss = model.loss(*pad_rows(rows, pad, width))
        loss.backward()
        losses.append(loss.item())
        slopes.append(gpt.model.layers[0].self_attn.q_proj.weight.grad.clone())
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5) and slopes[0].abs().max() > 1e-4
    for other in slopes[1:]: torch.testing.assert_close(other, slopes[0], rtol=1e-3, atol=1e-6)


def test_an_empty_text_and_one_of_the_end_token_are_read(tok):
    model = with_random_head(Classifier(tiny("qwen3", tok), ("a", "b")))
    ids = torch.tensor([[tok.end_id, tok.end_id], [tok.end_id, 7]])
    said = model(ids)
    torch.testing.assert_close(said[0], model.score(model.model(ids[:1]))[0, 0])
    torch.testing.assert_close(said[1], model.score(model.model(ids[1:]))[0, 1])
    assert predict(model, ["", "the tea"], tok)[0] in model.labels


def test_a_token_with_the_number_0_may_pad(tok, monkeypatch):
    assert pad_of(tok) == tok.end_id != 0
    monkeypatch.setattr(type(tok), "token_to_id", lambda self, name: 0 if name else None)
    assert pad_of(tok) == 0


# ---- what cannot be asked

@pytest.mark.parametrize("task, inputs, more, error, why", [
    ("classify", "the good tea", {}, TypeError, "inputs is one input: give a list"),
    ("generate", dict(text="tea"), {}, TypeError, "inputs is one input: give a list"),
    ("tag", ["Ann tea"], {}, TypeError, "'Ann tea' is a text: give a list of its words"),
    ("tag", [["Ann", ""]], {}, ValueError, "a word is empty"),
    ("tag", [["Ann"], ["Bob", None]], {}, ValueError, r"inputs\[1\]: None stands where a text"),
    ("tag", [None], {}, ValueError, r"inputs\[0\]: None stands where a list of words"),
    ("tag", [dict(words="Ann tea")], {}, TypeError, "'Ann tea' is a text: give a list of its"),
    ("tag", [dict(text="tea")], {}, ValueError, r"inputs\[0\] has no 'words': it has \['text'\]"),
    ("classify", ["tea", None], {}, ValueError, r"inputs\[1\]: None stands where a text"),
    ("classify", [["the", "tea"]], {}, ValueError, r"\['the', 'tea'\] stands where a text"),
    ("classify", [dict(words=["tea"])], {}, ValueError, r"inputs\[0\] has no 'text'"),
    ("classify", [dict(text="\ud800", where="row 2")], {}, ValueError, "row 2: .*lone surrogate"),
    ("generate", ["tea", 3], {}, ValueError, r"inputs\[1\]: 3 stands where a text"),
    ("generate", None, {}, TypeError, "inputs is NoneType: give a list"),
    ("classify", ["tea"], dict(batch_size=0), ValueError, "batch_size is 0"),
    ("classify", ["tea"], dict(batch_size=1.5), ValueError, "1.5: it should be a whole"),
    ("tag", [["Ann"]], dict(proba=True), ValueError, "for a Classifier, and this is a Tagger"),
    ("generate", ["tea"], dict(proba=True), ValueError, "for a Classifier, and this is a GPT")])
def test_what_cannot_be_asked(task, inputs, more, error, why, tok):
    gpt = tiny("qwen3", tok)
    made = {"classify": Classifier, "tag": Tagger}.get(task)
    model = made(gpt, ("a", "b")) if made else gpt
    with pytest.raises(error, match=why): predict(model, inputs, tok, **more)


def test_another_tokenizer_is_refused(tok):
    gpt = GPT(GPTConfig("qwen3", 300, 64, 1, 2, 32))
    for task in TASKS:
        with pytest.raises(ValueError, match="tok has 330 tokens and the model 300"):
            go(gpt, tok, task)


# ---- targets

def test_where_targets_stand(tok):
    x, y = Encoder("classify", tok, ("bad", "good"), 64)(dict(text="the good tea", label="good"))
    assert x == [tok.end_id, *tok.encode("the good tea")] and y == [-100] * (len(x) - 1) + [1]
    words = dict(words=["rice", "Dora", "salt"], tags=["O", "B-PER", "O"])
    x, y = Encoder("tag", tok, ("B-PER", "O"), 64)(words)
    assert tok.decode(x[1:]) == "rice Dora salt" and len(x) == len(y)
    ends = [i for i, target in enumerate(y) if target != -100]
    assert [y[i] for i in ends] == [1, 0, 1]
    assert [tok.decode(x[1:i + 1]) for i in ends] == ["rice", "rice Dora", "rice Dora salt"]
    x, y = Encoder("generate", tok, (), 64)(dict(text="tea red", target="a cherry"))
    answer = [t for t in y if t != -100]
    assert answer == [*tok.encode("a cherry"), tok.end_id] and y[-len(answer):] == answer
    assert x[1:] + answer[-1:] == [*tok.encode("tea red\n"), *answer]   # each foretells the next


# ---- what is learned and what stays

@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("learn", ["head", 1, "all"])
def test_what_is_frozen_stays_and_what_is_not_changes(learn, task, tok):
    gpt = tiny("qwen3", tok, tie_embeddings=False)
    before = state_of(gpt)
    run = go(gpt, tok, task, learn=learn, n=16)
    assert not same_state(before, gpt.state_dict())      # the one given is as it was
    assert all(p.requires_grad for p in gpt.parameters()) and gpt.config.context == 64
    after = run.model.state_dict()
    changed = {name for name in before.keys() & after.keys()
               if not torch.equal(before[name], after[name])}
    head = {"lm_head.weight"} if task == "generate" else set()
    block = {name for name in before if name.startswith("model.layers.1.")} | {"model.norm.weight"}
    body = before.keys() - {"lm_head.weight"}
    assert changed == head | {"head": set(), 1: block, "all": body}[learn]
    if task != "generate": assert run.model.score.weight.abs().max() > 0


@pytest.mark.parametrize("learn", ["most", -1, 3, 1.5, True])
def test_what_cannot_be_learned(learn, tok):
    with pytest.raises(ValueError, match="expected 'all', 'head' or a number of blocks, at most 2"):
        go(tiny("qwen3", tok), tok, "classify", learn=learn)


@pytest.mark.parametrize("task", TASKS)
def test_what_an_earlier_call_froze_learns_again(task, tok):
    "A body of which only the head, or nothing, learned: `all` means all."
    gpt = tiny("qwen3", tok, tie_embeddings=False)
    once = go(gpt, tok, "generate", learn="head", n=16).model
    for body in (once, gpt.requires_grad_(False)):
        before, run = state_of(body), go(body, tok, task, n=16)
        after, left = run.model.state_dict(), {"lm_head.weight"} if task != "generate" else set()
        assert {k for k in before if k not in after or torch.equal(before[k], after[k])} == left


@pytest.mark.parametrize("how, why", [
    (dict(epochs=0), "epochs is 0: expected a number above 0"), (dict(epochs=-1), "epochs is -1"),
    (dict(epochs=float("nan")), "epochs is nan"), (dict(epochs=float("inf")), "epochs is inf"),
    (dict(epochs="3"), "epochs is '3'"), (dict(batch_size=0), "batch_size is 0: it should be"),
    (dict(batch_size="8"), "batch_size is '8'")])
def test_how_nothing_can_be_trained(how, why, tok):
    with pytest.raises(ValueError, match=why): go(tiny("qwen3", tok), tok, "classify", **how)


def test_what_is_no_tokenizer_is_refused(tok):
    with pytest.raises(TypeError, match="tok is str: give a Tokenizer"):
        go(tiny("qwen3", tok), "tales-short", "tag")


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_gives_the_same_numbers(task, tok):
    runs = [go(tiny("qwen3", tok), tok, task, n=16, seed=seed) for seed in (3, 3, 4)]
    a, b, other = [state_of(run.model) for run in runs]
    assert not same_state(a, b) and same_state(a, other)
    assert without_times(runs[0].history) == without_times(runs[1].history)


# ---- a run that was stopped

@pytest.mark.parametrize("task", TASKS)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(task, tok, tmp_path):
    gpt, more = tiny("qwen3", tok), dict(val=0.25, log_every=1, epochs=3)
    whole = go(gpt, tok, task, out=tmp_path / "whole", **more)
    def stop(row):
        if row["step"] == 7: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 7: resume from"):
        go(gpt, tok, task, out=tmp_path / "run", watch=stop, **more)
    assert len(read_log(tmp_path / "run")) < len(whole.history)
    again = go(gpt, tok, task, out=tmp_path / "run", resume=True, **more)
    assert not same_state(whole.model.state_dict(), again.model.state_dict())
    assert without_times(again.history) == without_times(whole.history)
    logs = [without_times(read_log(tmp_path / name)) for name in ("whole", "run")]
    assert logs[0] == logs[1] == without_times(whole.history)
    assert (again.val_loss, again.score) == (whole.val_loss, whole.score)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert files[0] == files[1]
    with pytest.raises(FileExistsError, match="resume it"):
        go(gpt, tok, task, out=tmp_path / "run", **more)


@pytest.mark.parametrize("task", TASKS)
def test_other_examples_are_no_way_to_go_on(task, tok, tmp_path):
    go(tiny("qwen3", tok), tok, task, out=tmp_path / "run")
    with pytest.raises(ValueError):
        finetune(tiny("qwen3", tok), rows_for(task, 48, seed=9), task, tok, epochs=4, batch_size=8,
                 val=rows_for(task, 16, 2), out=tmp_path / "run", resume=True, show=False)


# ---- the folder of a run

@pytest.mark.parametrize("task", TASKS)
def test_the_folder_of_a_run(task, tok, tmp_path):
    run, (asked, _) = go(tiny("qwen3", tok), tok, task, out=tmp_path / "run"), inputs_for(task)
    opened = Run.open(tmp_path / "run")
    assert type(opened.model) is type(run.model) and opened.options["task"] == task
    assert not same_state(run.model.state_dict(), opened.model.state_dict())
    said = predict(run, asked)
    for given in (opened, tmp_path / "run", str(tmp_path / "run")):
        assert predict(given, asked) == said
    assert predict(run.model, asked, tok) == said
    with pytest.raises(ValueError, match="give tok="): predict(run.model, asked)
    fields = json.loads((tmp_path / "run" / "config.json").read_text())
    if task == "generate": assert "id2label" not in fields and type(run.model) is GPT
    else:
        labels = {"classify": ("bad", "good"), "tag": ("B-PER", "O")}[task]
        assert run.model.labels == opened.model.labels == labels
        assert fields["id2label"] == {str(i): label for i, label in enumerate(labels)}
        assert fields["label2id"] == {label: i for i, label in enumerate(labels)}
        assert fields["pad_token_id"] == run.model.pad == opened.model.pad
    assert load_tokenizer(tmp_path / "run").encode("the good tea") == tok.encode("the good tea")


def test_transformers_says_of_a_run_folder_what_predict_says(tok, tmp_path):
    transformers = pytest.importorskip("transformers")
    run, (asked, _) = go(tiny("qwen3", tok), tok, "classify", out=tmp_path), inputs_for("classify")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    batch = transformers.AutoTokenizer.from_pretrained(tmp_path)(
        asked, padding=True, padding_side="right", return_tensors="pt")
    with torch.no_grad(): logits = theirs(**{k: batch[k] for k in ("input_ids", "attention_mask")})
    p = predict(run, asked, proba=True)
    torch.testing.assert_close(logits.logits.softmax(-1), p, rtol=1e-4, atol=1e-5)


# ---- the log

@pytest.mark.parametrize("task", TASKS)
def test_lines_of_the_log_have_a_score(task, tok, tmp_path):
    run = go(tiny("qwen3", tok), tok, task, out=tmp_path / "run", epochs=3)
    measured = [row for row in run.history if row["val_loss"] is not None]
    assert len(measured) >= 3 and all(0 <= row["score"] <= 1 for row in measured)
    assert measured[-1]["step"] == run.history[-1]["step"]
    assert run.score == measured[-1]["score"] == Run.open(tmp_path / "run").score
    assert run.val_loss == measured[-1]["val_loss"]


def test_without_validation_there_is_no_score(tok):
    run = go(tiny("qwen3", tok), tok, "classify", val=0)
    assert run.score is None and run.val_loss is None


def test_logs_of_old_without_a_score_are_read(tok, tmp_path):
    run = go(tiny("qwen3", tok), tok, "classify", out=tmp_path / "run")
    old = [{k: v for k, v in row.items() if k != "score"} for row in run.history]
    lines = "".join(json.dumps(row) + "\n" for row in old)
    (tmp_path / "run" / "log.jsonl").write_text(lines)
    opened = Run.open(tmp_path / "run")
    assert opened.history == old and opened.score is None
    assert opened.plot() is not None


# ---- longer than the context

def long_rows(n_words, n=12):
    rows = rows_for("classify", n)
    rows[4]["text"] = " ".join(["tea"] * n_words) + " " + rows[4]["text"]
    return rows


def test_a_rotary_body_is_given_the_context_that_examples_need(tok):
    gpt, rows = tiny("llama", tok, context=16), long_rows(30)
    longest = 1 + max(len(tok.encode(row["text"])) for row in rows)
    assert 16 < longest <= 64
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = finetune(gpt, rows, "classify", tok, epochs=1, val=0, show=False)
    assert run.model.config.context == run.model.model.config.context == longest
    assert gpt.config.context == gpt.model.config.context == 16


@pytest.mark.parametrize("arch, limit", [("gpt2", 16), ("llama", 64)])
def test_what_is_too_long_is_counted_and_cut(arch, limit, tok):
    gpt = tiny(arch, tok, context=16)
    with pytest.warns(UserWarning, match=f"^1 example is .* {limit} tokens: .*dataset.4"):
        run = finetune(gpt, long_rows(100), "classify", tok, epochs=1, val=0, show=False)
    assert run.model.config.context == limit
    with pytest.warns(UserWarning, match=f"^1 example is .* {limit} tokens"):
        said = predict(run, ["tea " * 200 + "the good tea", "the good tea"], proba=True)
    assert said.isfinite().all()


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_of_a_long_prompt_the_end_is_read(arch, tok):
    run = go(tiny(arch, tok, context=32), tok, "generate", n=96, epochs=8)
    asked, right = inputs_for("generate", 12)
    long = ["salt " * 40 + asked[0], *asked[1:]]
    with pytest.warns(UserWarning, match="^1 example is longer than 32 tokens"):
        said = predict(run, long, max_new_tokens=8)
    assert said[1:] == predict(run, asked[1:], max_new_tokens=8)
    with pytest.warns(UserWarning, match="^1 example is longer than 32 tokens"):
        assert predict(run, long[:1], max_new_tokens=8) == said[:1]
    rows = [dict(text=text, target=target) for text, target in zip(long, right)]
    with pytest.warns(UserWarning, match="^1 example is longer than 32 tokens"):
        assert assess(run, rows)["exact match"] > 0.8


def test_what_is_left_of_a_long_example(tok):
    end, text = tok.end_id, "tea " * 30 + "the good tea"
    x, y = Encoder("classify", tok, ("bad", "good"), 8)(dict(text=text, label="good"))
    assert x == [end, *tok.encode(text)[-7:]] and y == [-100] * 7 + [1]
    words = ["tea"] * 30
    encoder = Encoder("tag", tok, ("B-PER", "O"), 8)
    x, y = encoder(dict(words=words, tags=["O"] * 30))
    assert x == [end, *tok.encode(" ".join(words))[:7]] and len(y) == 8 and len(encoder.cut) == 1
    x, y = Encoder("generate", tok, (), 12)(dict(text=text, target="a lime"))
    assert len(x) == len(y) == 12 and x[0] == end and y[-1] == end
    assert [t for t in y if t != -100] == [*tok.encode("a lime"), end]


def test_a_word_that_is_longer_than_the_context_is_no_example(tok):
    "Nothing is asked in it: the others are trained on and measured as if it were not there."
    gpt, long = tiny("gpt2", tok, context=16), dict(words=["x" * 300, "Ann"], tags=["O", "B-PER"])
    rows, test = rows_for("tag", 12), rows_for("tag", 6, 2)
    how = dict(epochs=2, batch_size=2, accumulate=2, show=False)
    with pytest.warns(UserWarning, match="^2 examples are longer than 16 tokens: words at the end"):
        run = finetune(gpt, [*rows, long], "tag", tok, val=[*test, long], **how)
    alone = finetune(gpt, rows, "tag", tok, val=test, **how)
    assert not same_state(run.model.state_dict(), alone.model.state_dict())
    assert (run.val_loss, run.score) == (alone.val_loss, alone.score)
    with pytest.warns(UserWarning, match="^1 example is longer than 16 tokens"):
        found, plain = assess(run, [*test, long]), assess(run, test)
    assert found == plain | {"examples": 7}
    with pytest.raises(ValueError, match="no example is left"), pytest.warns(UserWarning):
        assess(run, [long])


def test_a_character_that_the_tokenizer_lacks_is_named_with_its_place():
    rows = rows_for("classify", 8)
    letters = CharTokenizer.train([row["text"] for row in rows])
    gpt = tiny("qwen3", letters)
    with pytest.raises(ValueError, match=r"dataset\[8\]: character 4, '茶'"):
        go(gpt, letters, "classify", n=8, val=[*rows, dict(text="the 茶", label="good")])
    with pytest.raises(ValueError, match=r"inputs\[1\]: character 0, '茶'"):
        predict(Classifier(gpt, ("a", "b")), ["tea", "茶"], letters)


def test_rare_characters_are_chinese_too():
    assert word_pieces(dict(words=["𠮷野家", "很", "好"])) == ["𠮷野家", "很", "好"]
    assert word_pieces(dict(words=["New", "York", "很", "好"])) == ["New", " York", "很", "好"]


# ---- batches

def some_rows(n=29):
    rng = random.Random(0)
    return [([i] * rng.randint(1, 12), [-100]) for i in range(n)]


def test_batches_are_a_function_of_seed_and_step():
    rows = [(x, [-100] * (len(x) - 1) + [x[0]]) for x, _ in some_rows()]
    walked = RowBatches(rows, 4, 5, pad=99)
    first = [walked[step] for step in range(30)]
    for step in (29, 0, 17, 3):   # in any order, of a new object
        x, y = RowBatches(rows, 4, 5, pad=99)[step]
        assert torch.equal(x, first[step][0]) and torch.equal(y, first[step][1])
        assert torch.equal(walked[step][0], first[step][0])
    other = [RowBatches(rows, 4, 6, pad=99)[step][0] for step in range(7)]
    assert any(not torch.equal(a, b) for a, (b, _) in zip(other, first))
    met = [int(x[0]) for xs, _ in first for x in xs]
    for epoch in range(4): assert sorted(met[29 * epoch:29 * (epoch + 1)]) == list(range(29))
    for x, y in first:
        assert ((x == 99) <= (y == -100)).all() and ((y != -100).sum(1) == 1).all()
        assert (x != 99).any(0).all()              # no wider than its longest row


def test_processes_share_a_batch():
    parts = [RowBatches(some_rows(), 4, 5, 99, rank, 2)[3][0] for rank in (0, 1)]
    whole = RowBatches(some_rows(), 4, 5, 99)[3][0]
    assert torch.equal(whole[0::2], parts[0]) and torch.equal(whole[1::2], parts[1])


def test_examples_are_told_apart():
    rows = [([1, 2], [-100, 0]), ([3], [1])]
    def made(train=rows, val=rows, labels=("a", "b")):
        return Examples("classify", train, val, labels, 0, 0, 9).identity()
    assert made() == made()
    for other in (made(train=rows[::-1]), made(val=rows[:1]), made(labels=("b", "a"))):
        assert other != made()


# ---- each task learns

@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
@pytest.mark.parametrize("task", TASKS)
def test_each_task_learns_something_trivial(task, arch, tok):
    gpt, (asked, right) = tiny(arch, tok), inputs_for(task, 40)
    run = go(gpt, tok, task, n=96, epochs=8)
    assert run.score > 0.95 and run.history[0]["score"] < 0.8
    said = predict(run, asked)
    assert np.mean([a == b for a, b in zip(said, right)]) > 0.9
