"""Tastes, alarms, files that grow, forgetting: what the chapter on fine-tuning does not show."""
import copy
import math
import os
import time

import numpy as np
import pytest
import torch

from gpt_nb import tasks
from gpt_nb.finetuning import (Classifier, Encoder, RowBatches, cut_at_home, finetune, mood_of,
                               mood_rows)
from gpt_nb.tasks import (Rehearsing, Tastes, between, changed, cusum, evidence,
                          first_alarm, follow, hit_rate, log_probs_of, ndcg, next_rows,
                          read_lists, recommend, rehearse, temperature)
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.tales import KIND, Tales
from gpt_nb.tokenizer import BPETokenizer


@pytest.fixture(scope="module")
def tok():
    return BPETokenizer.train(Tales().texts(50), vocab_size=300)


def tiny(tok, seed=0):
    torch.manual_seed(seed)
    ends = dict(bos_token_id=tok.end_id, eos_token_id=tok.end_id)
    return GPT(GPTConfig.from_depth(1, tok.vocab_size, 256, tie_embeddings=False,
                                   **ends))


def test_the_truth_about_tastes_is_bayes_rule():
    "Step by step the same as the probability of the whole list under each taste, added up."
    world = Tastes(n=6, tastes=3)
    items = world.sample(3, length=7)
    each = np.ones(3)
    for t, item in enumerate(items): each *= world.given(items[:t])[:, world.things.index(item)]
    steps = [world.next(items[:t])[item] for t, item in enumerate(items)]
    assert math.prod(steps) == pytest.approx(each.mean())
    assert sum(world.next(items).values()) == pytest.approx(1)
    assert list(world.next(items).values()) == sorted(world.next(items).values(), reverse=True)


def test_people_take_what_the_truth_says():
    world = Tastes(n=5, tastes=2)
    first = [world.sample(seed, length=1)[0] for seed in range(4000)]
    for thing, p in world.next([]).items():
        assert first.count(thing) / 4000 == pytest.approx(p, abs=0.03)


def test_tastes_in_chinese():
    assert Tastes("zh").things[:2] == ["风筝", "书"]


def test_the_truth_about_a_long_list():
    "The probability of 700 things is too small to be written as a number; of the next it is not."
    world = Tastes()
    truth = world.next(world.sample(0, length=700))
    assert sum(truth.values()) == pytest.approx(1) and all(p > 0 for p in truth.values())


@pytest.mark.parametrize("given", [dict(n=0), dict(n=1000), dict(lang="fr")])
def test_a_world_of_tastes_that_cannot_be(given):
    with pytest.raises(ValueError, match="expected en or zh, 1 to 57"): Tastes(**given)


def test_as_many_ranks_as_things_that_came():
    for measure in (hit_rate, ndcg):
        with pytest.raises(ValueError): measure([["a"]], ["a", "b"])


def test_ranks_by_hand():
    ranked, came = [["a", "b", "c"], ["b", "c", "a"], ["b", "c", "d"]], ["a", "a", "a"]
    assert [hit_rate(ranked, came, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert ndcg(ranked, came, 3) == pytest.approx((1 + 1 / 2) / 3)


def test_recommended_is_what_the_tagger_finds_likeliest(tok):
    lists = [Tastes(n=6).sample(seed, length=4 + seed % 3) for seed in range(20)]
    run = finetune(tiny(tok), next_rows(lists), "tag", tok, epochs=1, val=0.0, show=False)
    together = recommend(run, lists, k=3)
    assert together == [recommend(run, [items], k=3)[0] for items in lists]   # whatever the padding
    assert all(len(set(shown)) == 3 and set(shown) <= set(run.model.labels) for shown in together)


def test_of_a_list_that_is_too_long_the_end_is_read(tok):
    things = Tastes(n=6)
    run = finetune(tiny(tok), next_rows([things.sample(i) for i in range(20)]), "tag", tok,
                   epochs=1, val=0.0, show=False)
    items = things.sample(1, length=300)
    x, _ = Encoder("tag", tok, run.model.labels, 10**6)(dict(words=items))
    kept = run.model.config.context - 1
    assert len(x) > kept + 1
    logits = run.model(torch.tensor([x[:1] + x[-kept:]]))[0, -1]
    best = [run.model.labels[i] for i in logits.argsort(descending=True)[:3].tolist()]
    assert recommend(run, [items, items[:5]], k=3)[0] == best


def test_lists_that_are_none(tok):
    run = finetune(tiny(tok), next_rows([["a", "b"], ["b", "a"]]), "tag", tok, epochs=1, val=0.0,
                   show=False)
    with pytest.raises(TypeError, match="give a list of its words"): recommend(run, ["a", "b"])
    for lists, k in ([[]], 1), ([["a"]], 0):
        with pytest.raises(ValueError, match="k of 1 or more, and no empty list"):
            recommend(run, lists, k)
    for items in ([], ["a"], "ab"):
        with pytest.raises(ValueError, match=r"lists\[1\] is .* two things or more"):
            next_rows([["a", "b"], items])


def test_lists_from_a_file(tmp_path):
    path = tmp_path / "lists.txt"
    path.write_bytes("\ufeffmilk, rye bread ,milk\r\n\r\n1 2  3\n[\"a b\", 7]\n".encode())
    assert read_lists(path) == [["milk", "rye bread", "milk"], ["1", "2", "3"], ["a b", "7"]]


def test_lists_of_a_chinese_reader_and_of_a_table(tmp_path):
    path = tmp_path / "lists.csv"
    path.write_bytes("茶，白米，茶\n茶、米\n".encode("gb18030"))
    assert read_lists(path, "gb18030") == [["茶", "白米", "茶"], ["茶", "米"]]
    with pytest.raises(ValueError, match="lists.csv is not UTF-8 text.*gb18030"): read_lists(path)
    path.write_text("milk, rye bread,,,\nbook,map,key,hat,\n")   # empty cells at the end
    assert read_lists(path) == [["milk", "rye bread"], ["book", "map", "key", "hat"]]
    path.write_bytes("a b\n".encode("utf-16"))
    assert read_lists(path) == [["a", "b"]]


@pytest.mark.parametrize("line, said", [("alone", "two things"), ("[1, 2", "JSON"),
                                        ("a,,b", "two things"), ("alone,,", "two things"),
                                        ('[["a"], "b"]', "names or numbers"),
                                        ('["a", null]', "names or numbers"), ("[DVD] a", "JSON")])
def test_a_bad_list_is_named_by_its_line(tmp_path, line, said):
    path = tmp_path / "lists.txt"
    path.write_text(f"a b\n{line}\n")
    with pytest.raises(ValueError, match=f"line 2.*{said}"): read_lists(path)


def test_evidence_is_a_ratio_of_likelihoods():
    assert evidence(np.array([1.0, 0.0]), 0.3, 0.6) == pytest.approx(np.log([0.6 / 0.3, 0.4 / 0.7]))
    assert evidence(np.array([0.2]), 0.3, 0.6, base=0.2) == pytest.approx([0.0])   # says nothing


def test_false_alarms_are_as_rare_as_promised():
    "With evidence that is right, e^h stories pass on average at least (Lorden 1971)."
    labels = (np.random.default_rng(0).random((400, 2000)) < 0.3).astype(float)
    rang = first_alarm(cusum(evidence(labels, 0.3, 0.6)), 3.0)
    assert rang.sum() / (rang < 2000).sum() > math.exp(3)
    turned = (np.random.default_rng(0).random((400, 300)) < 0.6).astype(float)
    assert first_alarm(cusum(evidence(turned, 0.3, 0.6)), 3.0).mean() < 40


def test_running_evidence_and_first_alarms_of_many_streams():
    steps = np.array([[1.0, -3, 2, 2], [-1, -1, 0.5, -1]])
    assert cusum(steps).tolist() == [[1, 0, 2, 4], [0, 0, 0.5, 0]]
    assert first_alarm(cusum(steps), 2.0).tolist() == [2, 4]


def test_plain_lists_of_numbers_will_do():
    steps = evidence([1.0, 0.0], 0.3, 0.6).tolist()
    assert cusum([steps]).tolist() == cusum(np.array([steps])).tolist()
    assert first_alarm([[0, 1, 2]], 2).tolist() == [2]
    logits, labels = [[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [0, 1, 1]
    assert temperature(logits, labels) == temperature(torch.tensor(logits), torch.tensor(labels))


def test_a_temperature_is_found_again():
    torch.manual_seed(0)
    logits = 2 * torch.randn(20_000, 3)
    labels = torch.multinomial(logits.softmax(-1), 1)[:, 0]
    assert temperature(3 * logits, labels) == pytest.approx(3, rel=0.05)


def test_a_file_that_grows(tmp_path):
    path = tmp_path / "log"
    lines = follow(path, wait=0.01, quiet=0.3)
    path.write_bytes(b"one\r\ntw")
    assert next(lines) == "one"
    with open(path, "ab") as file: file.write("o 书".encode()[:-1])   # half a character, too
    with open(path, "ab") as file: file.write("书".encode()[-1:] + b"\n\xff\n")
    assert [next(lines), next(lines)] == ["two 书", "\ufffd"]
    os.truncate(path, 0)
    path.write_text("a\n")
    assert next(lines) == "a"
    path.rename(tmp_path / "old")
    path.write_text("b\nnot finished")
    assert list(lines) == ["b"]


def test_what_was_written_last_before_a_new_file_is_not_lost(tmp_path):
    path = tmp_path / "log"
    path.write_text("one\n")
    lines = follow(path, wait=0.01, quiet=0.3)
    assert next(lines) == "one"
    with open(path, "a") as file: file.write("two\n")
    path.rename(tmp_path / "old")
    path.write_text("three\n")
    assert list(lines) == ["two", "three"]


def test_a_line_written_at_the_last_moment_is_not_lost(tmp_path, monkeypatch):
    "Between two looks the other program adds a line and begins a new file."
    path, asked = tmp_path / "log", tasks.begun_anew
    path.write_text("one\n")

    def late(file, at):
        if not (tmp_path / "old").exists():
            with open(path, "a") as more: more.write("two\n")
            path.rename(tmp_path / "old")
            path.write_text("three\n")
        return asked(file, at)

    monkeypatch.setattr(tasks, "begun_anew", late)
    assert list(follow(path, wait=0.01, quiet=0.2)) == ["one", "two", "three"]


def test_who_reads_slowly_misses_nothing(tmp_path):
    "The quiet time begins when the last line has been taken, however long that took."
    path, seen = tmp_path / "log", []
    path.write_text("one\n")
    for line in follow(path, wait=0.01, quiet=0.1):
        seen.append(line)
        if len(seen) == 3: continue
        time.sleep(0.2)
        with open(path, "a") as file: file.write("more\n")
    assert seen == ["one", "more", "more"]


def test_a_file_is_closed_when_nobody_reads_on(tmp_path, monkeypatch):
    path, files, opened = tmp_path / "log", [], tasks.opened
    path.write_text("one\ntwo\n")
    monkeypatch.setattr(tasks, "opened", lambda path: files.append(opened(path)) or files[-1])
    lines = follow(path)
    assert next(lines) == "one" and not files[0].closed
    lines.close()
    assert files[0].closed


@pytest.mark.parametrize("level", [2, 3])
def test_mood_is_read_off_a_story(level):
    for seed in range(50):
        story = Tales(level=level).sample(seed)
        assert mood_of(story.text) == mood_of(cut_at_home(story.text)) == story.mood
        assert story.text.startswith(cut_at_home(story.text))
    assert cut_at_home("nobody smiles") == cut_at_home("") == ""


def test_changes_leave_the_mood():
    stories = [Tales(level=2).sample(seed) for seed in range(40)]
    rows = [dict(text=cut_at_home(story.text), label=story.mood) for story in stories]
    ways, people = changed(rows), ("female", "male", "either")
    names = {entry.en for entry, kind in KIND.items() if kind in people}
    assert ways["as told"] == rows
    for way, others in ways.items():
        assert [row["label"] for row in others] == [row["label"] for row in rows]
        if way != "a typo":   # which may stand in a word that `mood_of` looks for
            assert [mood_of(row["text"]) for row in others] == [row["label"] for row in rows]
        if way == "as told": continue
        assert all(a["text"] != b["text"] for a, b in zip(rows, others))
    for row in ways["names never read"]:
        assert not names & set(row["text"].replace(",", "").split())


def test_new_names_are_as_many_as_people():
    "Also where there are three of one gender."
    for seed in range(60):
        story = Tales(level=3).sample(seed)
        text = tasks.rename(story.text)
        assert sum(name in text for names in tasks.NEW.values() for name in names) == 3
        assert mood_of(text) == mood_of(story.text)


def test_nothing_to_misspell():
    rows = [dict(text="So it is", label="a"), dict(text="", label="b")]
    assert changed(rows)["a typo"] == rows


def test_between_start_and_end(tok):
    start, end = tiny(tok), tiny(tok, seed=1)
    before = copy.deepcopy(start.state_dict())
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(between(start, end.model, 0.0)(ids), start(ids))
    whole = between(start, end.model)
    torch.testing.assert_close(whole.model(ids), end.model(ids))
    assert torch.equal(whole.lm_head.weight, start.lm_head.weight)
    assert all(torch.equal(p, before[name]) for name, p in start.state_dict().items())


def test_rehearsal_adds_the_loss_of_texts_in_training_only(tok):
    gpt = tiny(tok)
    texts = RowBatches([([1, 2, 3], [2, 3, 4])] * 4, 2, 0, tok.end_id)
    model = Rehearsing(gpt, ["a", "b"], texts, tok.end_id)
    x, y = torch.tensor([[1, 2]]), torch.tensor([[-100, 1]])
    alone = Classifier.loss(model, x, y)
    assert model.eval().loss(x, y) == alone
    torch.testing.assert_close(model.train().loss(x, y), alone + gpt.loss(*texts[0]))
    assert not any("lm_head" in name for name, p in model.named_parameters())


def test_what_is_wrong_with_examples_to_rehearse(tok):
    gpt, rows = tiny(tok), [dict(text="a good day", label="happy"), dict(text="rain", label="sad")]
    with pytest.raises(ValueError, match="texts is empty"): rehearse(gpt, tok, rows, [])
    with pytest.raises(ValueError, match="label"): rehearse(gpt, tok, [dict(text="a")], ["a"])
    long = dict(text="so it was " * 200, label="sad")
    with pytest.warns(UserWarning, match="1 example is longer than 256 tokens"):
        rehearse(gpt, tok, [*rows, long], ["a b"], epochs=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu(tok):
    "Each puts what it reads where the model is."
    gpt, lists = tiny(tok), [["a", "b"], ["b", "a"]]
    said = log_probs_of(gpt, tok, ["a"], ["b"])
    assert log_probs_of(tiny(tok).cuda(), tok, ["a"], ["b"]) == pytest.approx(said, rel=1e-3)
    run = finetune(gpt, next_rows(lists), "tag", tok, epochs=1, val=0.0, show=False)
    here = recommend(run, lists)
    run.model.cuda()
    assert [set(shown) for shown in recommend(run, lists)] == [set(shown) for shown in here]
    run = rehearse(gpt, tok, mood_rows(Tales(level=2), range(8)), ["a b"], epochs=1)
    assert between(gpt, run.model.model.cuda(), 0.5)(torch.tensor([[1]])).device.type == "cpu"


def test_rehearsing_forgets_less(tok):
    gpt, stories = tiny(tok), Tales().texts(60)
    rows = [dict(text=text, label="ab"[i % 2]) for i, text in enumerate(stories[:16])]
    ids = [[tok.end_id, *tok.encode(text), tok.end_id] for text in stories[40:]]
    x, y = RowBatches([(row[:-1], row[1:]) for row in ids], 20, 0, tok.end_id)[0]
    alone = finetune(gpt, rows, "classify", tok, epochs=8, lr=1e-3, val=0.0, show=False)
    both = rehearse(gpt, tok, rows, stories[:40], epochs=8)
    assert between(gpt, both.model.model).loss(x, y) < between(gpt, alone.model.model).loss(x, y)
