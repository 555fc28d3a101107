"The best anybody could reach, and tags: chapter 15."
import math
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_nb import finetuning
from gpt_nb.finetuning import (OPEN, answer_forecast, best_answers, best_dreamers, best_mood,
                               best_noised, dreamer_tags, entities, entity_f1, facts_of, finetune,
                               first_sentences, mood_forecast, noised, outlook, predict,
                               read_twice, reread, tags_of, two_sided, who_smiles)
from gpt_nb.model import GPT, GPTConfig
from gpt_nb.tales import Tales, read, surface
from gpt_nb.tokenizer import BPETokenizer

WORLDS = [Tales(lang, level) for lang in ("en", "zh") for level in (1, 2)]


def all_endings(world, text, p=1.0):
    for word, share in world.next(text).items():
        if word == "<|end|>": yield text, p
        else: yield from all_endings(world, text + surface(word, world.lang), p * share)


def joined(story, words):
    return "".join(surface(word, story.lang) for word in story.words[:words]).strip()


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("words_more", [0, 1, 2, 4])   # cut inside a sentence too
def test_forecasts_are_sums_over_all_endings(lang, words_more):
    world = Tales(lang, 1)
    for seed in (3,):
        story = world.sample(seed=seed)
        text = first_sentences(story, 5)
        n = next(n for n in range(len(story.words)) if joined(story, n) == text)
        text = joined(story, n + words_more)
        endings = {whole: p for whole, p in all_endings(world, text)}
        assert math.isclose(sum(endings.values()), 1)
        happy = sum(p for whole, p in endings.items() if read(world, whole)[1].last == 0)
        assert math.isclose(mood_forecast(world, text), happy, abs_tol=1e-12)
        for question in [q.text for q in story.questions]:
            answers = {}
            for whole, p in endings.items():
                for asked, answer in reread(world, whole).questions:
                    if asked == question: answers[answer] = answers.get(answer, 0) + p
            found, total = answer_forecast(world, text, question), sum(answers.values())
            assert found.keys() == answers.keys()
            for answer, p in answers.items():
                assert math.isclose(found[answer], p / total, abs_tol=1e-12)


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_forecasts_come_true_as_often_as_they_say(world):
    "Stories drawn, cut anywhere: where the forecast says p, a share p of them is happy."
    bins, rng = {}, Random(0)
    for seed in range(1000 if world.level == 1 else 200):
        story = world.sample(seed=seed)
        p = mood_forecast(world, joined(story, rng.randrange(len(story.words) + 1)))
        bins.setdefault(min(int(5 * p), 4), []).append((p, story.mood == "happy"))
    for pairs in bins.values():
        said, came = (sum(column) for column in zip(*pairs))
        spread = math.sqrt(sum(p * (1 - p) for p, _ in pairs))
        assert abs(said - came) <= 4.5 * spread + 1e-9


def test_outlook_agrees_with_20_000_stories():
    "Grouped by the scene after five sentences."
    world, groups = Tales("en", 1), {}
    for seed in range(20_000):
        story = world.sample(seed=seed)
        scene = facts_of(story.scenes[5])
        groups.setdefault(scene, []).append(story.mood == "happy")
    large = {scene: moods for scene, moods in groups.items() if len(moods) >= 200}
    assert len(large) > 15
    for scene, moods in large.items():
        p = sum(share for who, share in outlook(world, scene, who_smiles).items() if 0 in who)
        assert abs(sum(moods) - p * len(moods)) <= 4.5 * math.sqrt(len(moods) * p * (1 - p)) + 1e-9


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_once_something_is_told_again_the_end_is_known(world):
    for seed in range(30):
        story = world.sample(seed=seed)
        n = len(story.events) - world._level.recaps   # the first recap has been told
        assert mood_forecast(world, first_sentences(story, n)) == (story.mood == "happy")


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_a_whole_text_leaves_nothing_open(world):
    for seed in range(20):
        story = world.sample(seed=seed)
        again = reread(world, story.text)
        assert again.text == story.text and again.events == story.events
        assert again.translation == story.translation and again.spans == story.spans
        assert again.summary == story.summary and again.questions == story.questions
        assert mood_forecast(world, story.text) == (story.mood == "happy")
        for question, answer in story.questions:
            assert answer_forecast(world, story.text, question) == {answer: 1.0}


def test_level_3_where_two_may_smile():
    world = Tales("en", 3)
    story = world.sample(seed=5)
    last = story.scenes[-1]
    happy = [i for i in range(3) if (i == last.wish[0]) == last.granted()]
    before = first_sentences(story, len(story.events) - 1)
    assert math.isclose(mood_forecast(world, before), (0 in happy) / len(happy))


def test_the_best_guesser_scores_what_is_promised():
    world = Tales("en", 1)
    stories = [world.sample(seed=s) for s in range(2000)]
    texts = [first_sentences(s, 5) for s in stories]
    for guesses, gold, best in (
        ([("sad", "happy")[mood_forecast(world, t) > .5] for t in texts],
         [s.mood for s in stories], best_mood(world, texts)),
        ([next(iter(answer_forecast(world, t, s.questions[0].text)))
          for t, s in zip(texts, stories)], [s.questions[0].answer for s in stories],
         best_answers(world, texts, [s.questions[0].text for s in stories])),
    ):
        came = sum(a == b for a, b in zip(guesses, gold)) / len(gold)
        assert .7 < best.score < .9 and abs(came - best.score) < 4 * best.error
    for rate in (.1, .3):
        wrong = noised([s.mood for s in stories], rate, seed=1)
        changed = sum(a != s.mood for a, s in zip(wrong, stories)) / len(stories)
        assert abs(changed - rate) < 4 * math.sqrt(rate * (1 - rate) / len(stories))
    assert best_noised(1, .2) == .8 and best_noised(.5, .2) == .5


def test_what_cannot_be_is_refused():
    world = Tales("en", 1)
    story = world.sample(seed=0)
    for text in ("Once upon a time .", story.text + " Then", "Once a kind kind"):
        with pytest.raises(ValueError, match="begins so"): mood_forecast(world, text)
    with pytest.raises(ValueError, match="ask one of"):
        answer_forecast(world, first_sentences(story, 4), "Who had the moon in the end?")
    with pytest.raises(ValueError, match="no whole story"): reread(world, first_sentences(story, 4))
    with pytest.raises(ValueError, match="kinds"): noised(["a", "b", "c"], .1)


def test_places_that_have_no_name_yet_are_alike():
    world = Tales("en", 1)
    story = next(s for s in map(world.sample, range(99)) if s.events[3].kind == "wish_thing")
    text = first_sentences(story, 4)
    found = answer_forecast(world, text, OPEN["en"].format(story.known["thing", 0].en))
    assert math.isclose(sum(found.values()), 1) and len(found) == 2 + 16
    assert len({round(p, 12) for p in list(found.values())[3:]}) == 1


TAGS = st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B", "B-CD", "I-CD"])
PAIRS = st.lists(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=12), min_size=1, max_size=6)


def columns(texts):
    return [[[pair[side] for pair in text] for text in texts] for side in (0, 1)]


@given(PAIRS)
@settings(max_examples=100, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_entity_f1_is_that_of_seqeval(texts):
    pytest.importorskip("seqeval", reason="seqeval is built from source and not always there")
    from seqeval.metrics import f1_score, precision_score, recall_score
    from seqeval.metrics.v1 import precision_recall_fscore_support
    from seqeval.scheme import IOB2
    true, said = columns(texts)
    want = precision_recall_fscore_support(true, said, average="micro", scheme=IOB2,
                                           zero_division=0)[:3]
    assert entity_f1(true, said) == pytest.approx(tuple(want))
    want = [score(true, said, zero_division=0)
            for score in (precision_score, recall_score, f1_score)]
    repaired = [[lenient(tags) for tags in rows] for rows in (true, said)]
    assert entity_f1(*repaired) == pytest.approx(tuple(want))


def lenient(tags):
    return ["B" + tag[1:] if tag[0] == "I" and last[1:] != tag[1:] else tag
            for last, tag in zip(["O", *tags], tags)]


def test_entities_by_hand():
    assert entities(["B-A", "I-A", "I-B", "I-A", "B-B"]) == {(0, 2, "A"), (4, 5, "B")}
    assert entities(["I-A", "O"]) == set() and entity_f1([["O"]], [["O"]]).f1 == 0
    with pytest.raises(ValueError, match="text 1: 2 true tags, 1 predicted"):
        entity_f1([["O"], ["O", "O"]], [["O"], ["O"]])


@pytest.mark.parametrize("world", WORLDS, ids=str)
@pytest.mark.parametrize("by_character", [False, True])
def test_tags_are_the_spans(world, by_character):
    for seed in range(20):
        story = world.sample(seed=seed)
        pieces, tags = tags_of(story, by_character)
        assert "".join(pieces) == story.text.replace(" ", "")
        found = [("".join(pieces[a:b]), label) for a, b, label in sorted(entities(tags))]
        assert found == [(story.text[a:b], label) for a, b, label in story.spans]


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_the_best_tagger_of_dreamers(world):
    "Sure of each name once the dream is told, and right as often as it says before."
    stories = [world.sample(seed=s) for s in range(40)]
    best = best_dreamers(world, stories)
    assert .7 < best.score < .95 and 0 < best.error < .04
    for story in stories[:20]:
        words, tags = dreamer_tags(story)
        persons = [tag != "O" for tag in tags]
        assert persons == [tag == "B-PERSON" for tag in tags_of(story)[1]]


def test_reading_twice_keeps_words_and_tags_together():
    story = Tales("zh", 1).sample(seed=1)
    again = read_twice(story.words, "zh")
    assert len(again) == len(story.words) and again[1:] == story.words[1:]
    assert again[0] == story.text + " " + story.words[0]


def test_without_the_mask_padding_changes_nothing():
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(arch="qwen3", vocab_size=20, context=16, n_layer=2, n_head=2, d_model=16,
                        bos_token_id=0, eos_token_id=0))
    free, ids = two_sided(gpt), torch.tensor([[0, 5, 6, 7, 0, 0]])
    with torch.no_grad():
        short, padded = free.model(ids[:, :4]), free.model(ids)
        torch.testing.assert_close(short, padded[:, :4])
        other = ids.clone()
        other[0, 3] = 8
        assert (free.model(other)[0, 1] - padded[0, 1]).abs().max() > 1e-4
        torch.testing.assert_close(gpt.model(other)[0, 1], gpt.model(ids)[0, 1])
    with pytest.raises(ValueError, match="rotary"):
        two_sided(GPT(GPTConfig(arch="gpt2", vocab_size=20, context=16, n_layer=1, n_head=2,
                                d_model=16)))


def test_without_the_mask_any_token_may_pad():
    "What pads is what the tokenizer says, not what begins texts: alone or in a batch is the same."
    tok = BPETokenizer.train(["Ann gave Bob the red tea"], 270, ["<|end|>", "<|pad|>"])
    tok.config |= dict(pad_token="<|pad|>")
    torch.manual_seed(0)
    gpt = GPT(GPTConfig("qwen3", tok.vocab_size, 32, 2, 2, 16, bos_token_id=tok.end_id,
                        eos_token_id=tok.end_id))
    rows = [dict(words="Ann gave tea".split(), tags="B-P O O".split()),
            dict(words="the red tea Bob gave".split(), tags="O O O B-P O".split())] * 8
    run = finetune(two_sided(gpt), rows, "tag", tok, epochs=4, val=0, show=False)
    assert run.model.pad == run.model.model.pad == tok.token_to_id("<|pad|>") != tok.end_id
    ids = [tok.end_id, *tok.encode("Ann gave tea")]
    alone = run.model(torch.tensor([ids]))
    together = run.model(torch.tensor([ids + [run.model.pad] * 9]))
    torch.testing.assert_close(alone[0], together[0, :len(ids)])


def test_what_needs_its_mask_is_refused_without(tmp_path):
    tok = BPETokenizer.train(["Ann gave Bob the red tea"], 270)
    free = two_sided(GPT(GPTConfig("qwen3", tok.vocab_size, 32, 1, 2, 16, bos_token_id=tok.end_id)))
    rows = [dict(text="red", target="tea"), dict(text="tea", target="red")]
    with pytest.raises(ValueError, match="without its mask a model cannot write"):
        finetune(free, rows, "generate", tok, val=0, show=False)
    with pytest.raises(ValueError, match="without its mask a model cannot write"):
        predict(free, ["red"], tok)
    tagged = [dict(words=["Ann", "gave"], tags=["B-P", "O"])] * 8
    with pytest.raises(ValueError, match="a folder does not say that the mask is away"):
        finetune(free, tagged, "tag", tok, val=0, show=False, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="the mask is away"): free.save_pretrained(tmp_path / "x")


def test_lists_of_tags_that_cannot_be_compared():
    with pytest.raises(TypeError, match="tags of one text: give a list of texts"):
        entity_f1(["B-PER", "O"], ["B-PER", "O"])
    with pytest.raises(ValueError, match="1 texts with true tags, 2 predicted"):
        entity_f1([["O"]], [["O"], ["O"]])
    given = [["B-PER", "O"]], [["B-PER", "O"]]
    assert entity_f1(*(iter(tags) for tags in given)).f1 == 1


def test_what_the_world_cannot_tell_is_refused():
    for world in (Tales(level=1), Tales("zh", level=2)):
        with pytest.raises(ValueError, match="give level 2 or 3, in English"):
            finetuning.mood_rows(world, range(3))
    with pytest.raises(ValueError, match="no examples"): best_mood(Tales(), [])
    for rate in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="expected 0 to 1"):
            noised(["a", "b"], rate)
    assert read_twice([], "en") == []


def test_the_log_of_a_tagger_shows_entity_f1():
    assert finetuning.SCORES["tag"]([["O", "B-A"]], [["B-A", "B-A"]]) == pytest.approx(2 / 3)
