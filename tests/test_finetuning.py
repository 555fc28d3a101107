"Heads on a GPT, examples as rows, and fine-tuning: equal to transformers, exact, never in place."
import copy
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from gpt_nb.finetuning import (
    Classifier, Encoder, Examples, RowBatches, Tagger, finetune, pad_rows, predict, word_pieces,
)
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.tokenizer import BPETokenizer
from gpt_nb.training import Run, Single

V, PAD, LABELS = 50, 49, ("bad", "good", "so so")
FAMILIES = ["gpt2", "llama", "qwen2", "qwen3"]


def tiny(arch="qwen3", vocab_size=V, pad=PAD, seed=0, **changes):
    torch.manual_seed(seed)
    sizes = dict(context=32, n_layer=2, n_head=2, d_model=16, bos_token_id=pad, eos_token_id=pad)
    return GPT(GPTConfig(arch, vocab_size, **sizes | changes))


def with_head(kind, arch, **changes):
    model = kind(tiny(arch, **changes), LABELS)
    for p in model.score.parameters(): torch.nn.init.normal_(p)
    return model.eval()


def padded(lengths=(4, 12, 9, 1), seed=1):
    "A batch of rows of these lengths, padded behind."
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, PAD, (len(lengths), max(lengths)), generator=rng)
    for row, length in zip(ids, lengths): row[length:] = PAD
    return ids


# heads, and files of transformers

def theirs(kind):
    import transformers
    transformers.logging.disable_progress_bar()
    sequence = transformers.AutoModelForSequenceClassification
    return sequence if kind is Classifier else transformers.AutoModelForTokenClassification


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("arch", FAMILIES)
@pytest.mark.parametrize("kind", [Classifier, Tagger])
@torch.no_grad()
def test_transformers_opens_ours_with_equal_logits_and_we_theirs(kind, arch, tied, tmp_path):
    model, ids = with_head(kind, arch, tie_embeddings=tied), padded()
    model.save_pretrained(tmp_path / "ours")
    other = theirs(kind).from_pretrained(tmp_path / "ours").eval()
    assert dict(enumerate(LABELS)) == other.config.id2label
    ours, logits = model(ids), other(ids, attention_mask=(ids != PAD).long()).logits
    real = slice(None) if kind is Classifier else ids != PAD
    torch.testing.assert_close(ours[real], logits[real], atol=1e-5, rtol=1e-5)
    other.save_pretrained(tmp_path / "theirs")
    again = kind.from_pretrained(tmp_path / "theirs")
    assert torch.equal(again(ids), ours) and again.labels == LABELS and again.pad == PAD


@pytest.mark.parametrize("kind", [Classifier, Tagger])
def test_labels_that_transformers_leaves_out_of_a_file_are_the_usual_two(kind, tmp_path):
    model = kind(tiny(), ["LABEL_0", "LABEL_1"])
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text())
    del fields["id2label"], fields["label2id"]
    path.write_text(json.dumps(fields))
    assert kind.from_pretrained(tmp_path).labels == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize("arch", FAMILIES)
@pytest.mark.parametrize("kind", [Classifier, Tagger])
@torch.no_grad()
def test_padding_never_changes_a_result(kind, arch):
    model, ids = with_head(kind, arch), padded()
    together, wider = model(ids), model(torch.cat([ids, torch.full((4, 5), PAD)], 1))
    for i, length in enumerate([4, 12, 9, 1]):
        alone = model(ids[i:i + 1, :length])[0]
        for batch in (together, wider):
            found = batch[i] if kind is Classifier else batch[i, :length]
            torch.testing.assert_close(found, alone, atol=1e-6, rtol=1e-5)


def test_a_classifier_reads_the_last_token_that_is_no_padding():
    model, ids = with_head(Classifier, "qwen3"), padded()
    with torch.no_grad(): states = model.model(ids)
    for row, state, length in zip(model(ids), states, [4, 12, 9, 1]):
        torch.testing.assert_close(row, model.score(state[length - 1]))
    other = ids.clone()
    other[0, 3] = (ids[0, 3] + 1) % PAD
    assert not torch.equal(model(other)[0], model(ids)[0])


def test_the_loss_is_the_mean_over_what_is_asked():
    model, ids = with_head(Tagger, "llama"), padded()
    y = torch.full_like(ids, -100)
    y[0, 3], y[1, 2], y[1, 11] = 2, 0, 1
    logs = model(ids).log_softmax(-1)
    expected = -(logs[0, 3, 2] + logs[1, 2, 0] + logs[1, 11, 1]) / 3
    torch.testing.assert_close(model.loss(ids, y), expected)


@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_what_a_folder_holds_is_said_to_who_opens_it_as_something_else(arch, tmp_path):
    models = {kind: with_head(kind, arch) for kind in (Classifier, Tagger)} | {GPT: tiny(arch)}
    for kind, model in models.items():
        model.save_pretrained(tmp_path / kind.__name__)
        for other in models.keys() - {kind}:
            says = f"is no {other.__name__}: open it with {kind.__name__}.from_pretrained"
            with pytest.raises(ValueError, match=says):
                other.from_pretrained(tmp_path / kind.__name__)


@pytest.mark.parametrize("labels, says", [
    (["a", "b", "a"], "labels stand twice: a"), (["a"], "at least two"), ([], "at least two"),
    ([1, 2], "a label is a text, not 1"), (["a", ""], "a label is a text"),
])
def test_labels_that_are_none(labels, says):
    with pytest.raises(ValueError, match=says): Classifier(tiny(), labels)


@pytest.mark.parametrize("changes, says", [
    (dict(id2label={"0": "a", "1": "a", "2": "c"}), "labels stand twice"),
    (dict(id2label={"0": "a", "2": "b", "3": "c"}), "does not number its labels 0, 1, 2"),
    (dict(id2label=["a", "b", "c"]), "id2label is"),
    (dict(id2label={"0": "a", "1": "b"}), r"score.weight is \(3, 16\) and should be \(2, 16\)"),
    (dict(pad_token_id="x"), "pad is 'x'"), (dict(pad_token_id=V), "pad is 50"),
])
def test_a_damaged_folder_is_named(changes, says, tmp_path):
    with_head(Classifier, "qwen3").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=says): Classifier.from_pretrained(tmp_path)


def test_a_model_without_ends_says_what_to_give():
    gpt = tiny(bos_token_id=None, eos_token_id=None)
    with pytest.raises(ValueError, match="pad="): Classifier(gpt, LABELS)
    assert Classifier(gpt, LABELS, pad=7).pad == 7


# examples as rows

TEXTS = ["the soup was good and warm", "the soup was bad", "a bad day and a cold soup",
         "a good day", "the day was good", "bad soup and bad bread on a cold day"]
TOK = BPETokenizer.train(TEXTS * 3 + ["今天汤很好。", "汤不好。"] * 3, vocab_size=300)
SETTINGS = dict(show=False, device="cpu", warmup=2, log_every=1)


def reviews(n=24, seed=0):
    rng = np.random.default_rng(seed)
    things, words = ["soup", "day", "bread"], {"good": ["good", "warm"], "bad": ["bad", "cold"]}
    def one(i):
        label = ["good", "bad"][i % 2]
        thing, word = rng.choice(things), rng.choice(words[label])
        end = " today" * int(rng.integers(0, 4))
        return dict(text=f"the {thing} was {word}{end}", label=label)
    return [one(i) for i in range(n)]


def tagged(n=24):
    rows = []
    for row in reviews(n):
        words = row["text"].split()
        rows.append(dict(words=words, tags=["O", "B-THING"] + ["O"] * (len(words) - 2)))
    return rows


def answers(n=24): return [dict(text=r["text"], target=r["label"]) for r in reviews(n)]


DATA = dict(classify=reviews, tag=tagged, generate=answers)


def small(): return tiny(vocab_size=TOK.vocab_size, pad=TOK.end_id, context=48)


def test_a_text_is_asked_once_at_its_end():
    x, y = Encoder("classify", TOK, ["bad", "good"], 32)(dict(text=TEXTS[0], label="good"))
    assert x == [TOK.end_id, *TOK.encode(TEXTS[0])] and y == [-100] * (len(x) - 1) + [1]


def test_a_word_is_asked_at_its_last_token():
    words, tags = ["the", "soup", "was", "overcooked"], ["O", "B-THING", "O", "O"]
    x, y = Encoder("tag", TOK, ["B-THING", "O"], 64)(dict(words=words, tags=tags))
    assert TOK.decode(x[1:]) == " ".join(words) and [i for i in y if i >= 0] == [1, 0, 1, 1]
    for place in np.flatnonzero(np.array(y) >= 0):
        read = TOK.decode(x[1:place + 1])
        assert any(read == " ".join(words[:n]) for n in range(1, 5))


def test_an_answer_is_asked_token_by_token_and_ends():
    x, y = Encoder("generate", TOK, [], 64)(dict(text="the day", target="good"))
    said = [i for i in y if i != -100]
    assert said == [*TOK.encode("good"), TOK.end_id]
    assert TOK.decode(x[1:]) == "the day\ngood" and len(x) == len(y)
    first = len(x) - len(said)
    assert y[first - 1] == -100 and x[first] == TOK.encode("\n")[-1]


@pytest.mark.parametrize("example, pieces", [
    (dict(words=["Ann", "smiled", "."]), ["Ann", " smiled", " ."]),
    (dict(words=["Ann", "smiled", "."], text="Ann smiled."), ["Ann", " smiled", "."]),
    (dict(words=["汤", "很", "好", "。"]), ["汤", "很", "好", "。"]),
    (dict(words=["汤", "tom", "yum", "好"]), ["汤", "tom", " yum", "好"]),
    (dict(words=["a", "a"], text="  a\n a "), ["  a", "\n a"]),
])
def test_words_stand_as_they_do_in_a_text(example, pieces):
    assert word_pieces(example) == pieces


def test_a_word_that_is_not_in_the_text_is_named():
    with pytest.raises(ValueError, match="the word 'b' is not in"):
        word_pieces(dict(words=["a", "b"], text="a c"))


@pytest.mark.parametrize("task, kept", [("classify", "end"), ("generate", "end"), ("tag", "start")])
def test_what_is_too_long_is_cut_and_counted(task, kept):
    encoder = Encoder(task, TOK, ["O", "good"], 10)
    words = [str(i) for i in range(30)]
    long = dict(text=" ".join(words), label="good", target="x", words=words, tags=["O"] * 30)
    if task == "tag": del long["text"]
    x, y = encoder(long)
    assert len(x) == len(y) == 10 and x[0] == TOK.end_id and max(y) >= 0
    whole = Encoder(task, TOK, ["O", "good"], 10_000)(long)
    assert (x[1:], y[1:]) == tuple(w[-9:] if kept == "end" else w[1:10] for w in whole)
    with pytest.warns(UserWarning, match="1 examples are longer than 10 tokens"): encoder.warn()


def rows_of_lengths(n=37, seed=0):
    rng = np.random.default_rng(seed)
    return [([i] * k, [i] * k) for i, k in enumerate(rng.integers(1, 12, n).tolist())]


def test_batches_hang_on_seed_and_step_alone():
    rows = rows_of_lengths()
    one, other = (RowBatches(rows, 8, 3, PAD) for _ in range(2))
    later = {step: one[step] for step in (9, 2, 0, 31)}
    for step, batch in later.items():
        assert all(torch.equal(a, b) for a, b in zip(batch, other[step]))
    assert not torch.equal(one[0][0], RowBatches(rows, 8, 4, PAD)[0][0])


@pytest.mark.parametrize("batch_size", [1, 8, 16, 37, 50])
def test_an_epoch_reads_each_example_once(batch_size):
    rows = rows_of_lengths()
    batches, read = RowBatches(rows, batch_size, 0, PAD), []
    for step in range(5 * 37 // batch_size + 2): read += batches[step][0][:, 0].tolist()
    for epoch in range(len(read) // 37):
        assert sorted(read[37 * epoch:37 * (epoch + 1)]) == list(range(37))


def test_processes_share_a_batch():
    rows = rows_of_lengths()
    whole = RowBatches(rows, 8, 1, PAD)[5]
    parts = [RowBatches(rows, 8, 1, PAD, rank, 2)[5] for rank in range(2)]
    for all_rows, a, b in zip(whole, *parts):
        assert torch.equal(all_rows[0::2], a) and torch.equal(all_rows[1::2], b)


def test_validation_rows_are_read_once_short_ones_first():
    rows = rows_of_lengths()
    examples = Examples("classify", [], rows, ("a", "b"), PAD, PAD, V)
    read = [x for x, y in examples.rows(32, 5)]
    assert sorted(row[0].item() for x in read for row in x) == list(range(37))
    widths = [x.shape[1] for x in read]
    assert widths == sorted(widths)
    assert sum(len(x) for x, y in examples.rows(32, 5, most=60)) < 20
    assert Examples("classify", rows, [], ("a", "b"), PAD, PAD, V).rows(32, 5) is None


def test_padded_rows():
    x, y = pad_rows([([1, 2], [3, 4]), ([5], [6])], 9, width=3)
    assert x.tolist() == [[1, 2, 9], [5, 9, 9]] and y.tolist() == [[3, 4, -100], [6, -100, -100]]


# fine-tuning

@pytest.mark.parametrize("task", list(DATA))
def test_it_learns_and_leaves_the_given_model_alone(task):
    gpt = small()
    before = copy.deepcopy(gpt.state_dict())
    epochs = 60 if task == "generate" else 12
    run = finetune(gpt, DATA[task](48), task, TOK, epochs=epochs, **SETTINGS)
    assert run.score > 0.9 and run.history[0]["score"] < run.score
    assert gpt.state_dict().keys() == before.keys()
    assert all(torch.equal(w, before[name]) for name, w in gpt.state_dict().items())
    assert all(p.requires_grad for p in gpt.parameters()) and gpt.config.context == 48
    assert type(run.model) is dict(classify=Classifier, tag=Tagger, generate=GPT)[task]
    example = DATA[task](2)[1]
    given = example["words"] if task == "tag" else example["text"]
    wanted = dict(classify="label", tag="tags", generate="target")[task]
    assert predict(run, [given]) == [example[wanted]]


@pytest.mark.parametrize("learn, frozen", [("head", 2), (1, 1), (0, 2)])
def test_what_is_frozen_stays_bit_identical(learn, frozen):
    gpt = small()
    run = finetune(gpt, reviews(), "classify", TOK, epochs=2, learn=learn, **SETTINGS)
    now, changed = dict(run.model.named_parameters()), set()
    for name, w in gpt.named_parameters():
        if name == "lm_head.weight": continue
        if not torch.equal(w, now[name]): changed.add(name)
    layers = {name.split(".")[2] for name in changed if ".layers." in name}
    assert layers == {str(i) for i in range(frozen, 2)} and not any("embed" in n for n in changed)
    assert ("model.norm.weight" in changed) == (learn == 1)
    assert run.model.score.weight.abs().max() > 0


@pytest.mark.parametrize("learn", ["none", 3, -1, 1.5])
def test_what_cannot_be_learned(learn):
    with pytest.raises(ValueError, match="learn is"):
        finetune(small(), reviews(), "classify", TOK, learn=learn, **SETTINGS)


def test_the_same_seed_gives_the_same_model():
    def once(seed): return finetune(small(), reviews(), "classify", TOK, epochs=2, seed=seed,
                                    val=reviews(8, seed=5), **SETTINGS)
    a, b, c = once(0), once(0), once(1)
    assert all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters()))
    assert not all(torch.equal(p, q) for p, q in zip(a.model.parameters(), c.model.parameters()))
    slow = {"tokens_per_second"}
    for one, two in zip(a.history, b.history):
        assert {k: v for k, v in one.items() if k not in slow} == {
            k: v for k, v in two.items() if k not in slow}


class Stop(Exception): pass


@pytest.mark.parametrize("task, learn", [("classify", "all"), ("tag", 1), ("generate", "all")])
def test_a_resumed_run_ends_as_one_that_was_not_stopped(task, learn, tmp_path):
    def go(folder, **how):
        return finetune(small(), DATA[task](), task, TOK, epochs=4, learn=learn,
                        out=tmp_path / folder, **SETTINGS, **how)
    whole = go("whole")
    def stop(row):
        if row["step"] == 5: raise Stop
    with pytest.raises(Stop): go("stopped", watch=stop)
    again = go("stopped", resume=True)
    for p, q in zip(whole.model.parameters(), again.model.parameters()): assert torch.equal(p, q)
    one, two = (Single().load(tmp_path / f / "state")[0] for f in ("whole", "stopped"))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert again.score == whole.score and again.val_loss == whole.val_loss
    with pytest.raises(ValueError, match="this is another run"):
        finetune(small(), DATA[task](30), task, TOK, epochs=4, out=tmp_path / "stopped",
                 resume=True, **SETTINGS)


def test_other_frozen_parts_are_another_run(tmp_path):
    how = dict(epochs=2, out=tmp_path / "run", **SETTINGS)
    finetune(small(), reviews(), "classify", TOK, learn=1, **how)
    with pytest.raises(ValueError, match="frozen parts was .* and is"):
        finetune(small(), reviews(), "classify", TOK, learn=2, resume=True, **how)


@pytest.mark.parametrize("task", list(DATA))
def test_a_run_folder_opens_and_answers_as_the_run_did(task, tmp_path):
    run = finetune(small(), DATA[task](), task, TOK, epochs=2, out=tmp_path / "run", **SETTINGS)
    opened = Run.open(tmp_path / "run")
    assert type(opened.model) is type(run.model) and opened.score == run.score
    given = [row["words" if task == "tag" else "text"] for row in DATA[task](6)]
    expected = predict(run, given)
    assert predict(opened, given) == predict(tmp_path / "run", given) == expected
    assert predict(run.model, given, TOK, batch_size=1) == expected
    assert opened.options["task"] == task
    if task == "generate": return
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["pad_token_id"] == TOK.end_id and set(saved["label2id"]) == set(run.model.labels)


def test_an_old_log_has_no_scores(tmp_path):
    finetune(small(), reviews(), "classify", TOK, epochs=1, out=tmp_path / "run", **SETTINGS)
    log = tmp_path / "run" / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert any(row.get("score") is not None for row in rows)
    log.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "score"}) + "\n"
                           for row in rows))
    assert Run.open(tmp_path / "run").score is None


def test_a_folder_with_labels_says_what_opens_it(tmp_path):
    finetune(small(), reviews(), "classify", TOK, epochs=1, out=tmp_path / "run", **SETTINGS)
    code = f"from gpt_nb.training import Run; Run.open({str(tmp_path / 'run')!r})"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode and "import gpt_nb.finetuning before" in ended.stderr


def test_probabilities_are_those_of_each_text_alone():
    run = finetune(small(), reviews(), "classify", TOK, epochs=2, **SETTINGS)
    texts = [row["text"] for row in reviews(9)]
    together = predict(run, texts, proba=True, batch_size=4)
    assert together.shape == (9, 2)
    torch.testing.assert_close(together.sum(1), torch.ones(9))
    for text, row in zip(texts, together):
        torch.testing.assert_close(predict(run, [text], proba=True)[0], row, atol=1e-6, rtol=1e-5)


def test_the_context_grows_with_the_examples_where_positions_are_rotary():
    long = [row | dict(text="the soup was good " * 12 + row["text"]) for row in reviews()]
    run = finetune(small(), long, "classify", TOK, epochs=1, **SETTINGS)
    assert run.model.config.context > 48 and run.model.model.config == run.model.config
    gpt2 = tiny("gpt2", vocab_size=TOK.vocab_size, pad=TOK.end_id, context=48)
    with pytest.warns(UserWarning, match="24 examples are longer than 48 tokens"):
        run = finetune(gpt2, long, "classify", TOK, epochs=1, **SETTINGS)
    assert run.model.config.context == 48
    with pytest.warns(UserWarning, match="1 examples are longer"): predict(run, [long[0]["text"]])


def test_words_beyond_the_context_are_tagged_as_nothing():
    gpt2 = tiny("gpt2", vocab_size=TOK.vocab_size, pad=TOK.end_id, context=48)
    run = finetune(gpt2, tagged(), "tag", TOK, epochs=1, **SETTINGS)
    with pytest.warns(UserWarning, match="last words are not read"):
        said = predict(run, [["soup"] * 90])[0]
    assert len(said) == 90 and said[-1] == "O"


def test_what_was_given_in_the_wrong_place_is_named():
    run = finetune(small(), reviews(), "classify", TOK, epochs=1, **SETTINGS)
    with pytest.raises(TypeError, match="give the GPT it was made from"):
        finetune(run.model, reviews(), "classify", TOK, **SETTINGS)
    with pytest.raises(ValueError, match="no tokenizer"): finetune(small(), reviews(), "classify")
    with pytest.raises(TypeError, match="give a Run, a GPT or a folder"):
        finetune(None, reviews(), "classify")


def test_nothing_warns_where_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finetune(small(), reviews(), "classify", TOK, epochs=1, **SETTINGS)
