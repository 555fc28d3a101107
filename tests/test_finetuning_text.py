"Tasks whose answer is text: their examples, their measures, simple answerers, prompts."
import math
import re
import string
from collections import Counter

import pytest
import torch

from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.evaluation import score
from gpt_nb.tasks import (TEXT_TASKS, bag_of_words, bleu, choices_for, exact_match, in_own_words,
                          likeliest, log_probs_of, most_frequent, one_change, pairs_of, rouge,
                          same_told, text_baselines, text_scores, third_person, token_f1,
                          what_is_told)
from gpt_nb.model import GPT
from gpt_nb.tales import Tales

LANGS = ("en", "zh")
SEEDS = range(5_000_000, 5_000_060)


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("task", TEXT_TASKS)
def test_pairs(task, lang):
    "One row a seed, the same each time, and what is wanted is right by every measure."
    rows = pairs_of(task, lang, SEEDS)
    assert len(rows) == len(SEEDS) and rows == pairs_of(task, lang, SEEDS)
    assert all(set(row) == {"text", "target"} and all(row.values()) for row in rows)
    scores = text_scores(task, rows, [row["target"] for row in rows])
    assert all(value == pytest.approx(1) for value in scores.values()), scores


def test_unknown_task():
    with pytest.raises(ValueError, match="task is 'poem': there are question, summary"):
        pairs_of("poem")


@pytest.mark.parametrize("lang", LANGS)
def test_broken_stories(lang):
    "The world cannot tell the broken story, and it can tell the mended one."
    world = Tales(lang)
    for row in pairs_of("repair", lang, SEEDS):
        assert world.log2prob(row["text"]) == -math.inf < world.log2prob(row["target"])


def test_one_change_is_its_own_mending():
    "What one change does, one change undoes."
    events = [event._replace(pronoun="") for event in Tales().sample(5).events]
    for damaged in one_change(events): assert events in list(one_change(damaged))


@pytest.mark.parametrize("lang", LANGS)
def test_simpler_keeps_the_end(lang):
    "It is never longer, ends as the story does, and no sentence of it can be left out."
    world = Tales(lang)
    for row in pairs_of("simpler", lang, SEEDS):
        sentences = re.findall("[^.。]*[.。]", row["target"])
        assert len(row["target"]) <= len(row["text"]) + 40 and row["text"].endswith(sentences[-1])
        for i in range(len(sentences) - 1):
            assert world.check("".join(sentences[:i] + sentences[i + 1:])).story == 0


@pytest.mark.parametrize("lang", LANGS)
def test_first_person_and_back(lang):
    "The person behind the I is found again: told of her, the story is the one that was given."
    for row in pairs_of("voice", lang, SEEDS):
        assert row["target"] != row["text"]
        assert what_is_told(third_person(row["target"])) == what_is_told(row["text"])
        assert Tales(lang).check(third_person(row["target"])).story == 1


def squad_words(text):
    "Normalised as the paper's program does it, for English."
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


@pytest.mark.parametrize("said, gold", [
    ("The mill.", "mill"), ("in a mill", "the mill"), ("Mia's cup", "mias cup"), ("", "mill"),
    ("to be, or not to be", "not to be"), ("an apple a day", "apple day")])
def test_squad(said, gold):
    a, b = squad_words(said), squad_words(gold)
    common = (Counter(a) & Counter(b)).total()
    assert exact_match(said, gold) == float(a == b)
    assert token_f1(said, gold) == pytest.approx(2 * common / (len(a) + len(b)) if common else 0)


def test_chinese_by_characters():
    assert exact_match("山洞。", "山洞") == 1 and token_f1("山洞里", "山洞") == pytest.approx(0.8)
    assert token_f1("", "") == 1 and token_f1("磨坊", "山洞") == 0


@pytest.mark.parametrize("said, gold", [("Cafe\u0301 Mia", "caf\u00e9 mia"),
                                        ("\uff2d\uff49\uff41", "Mia"), ("\uff11\uff12", "12")])
def test_a_letter_written_in_two_ways_is_one_letter(said, gold):
    "An accent of its own, and the wide letters and digits of Chinese keyboards."
    assert exact_match(said, gold) == token_f1(said, gold) == rouge(said, gold)["rougeL"] == 1


def test_as_many_texts_as_right_ones():
    "sacrebleu itself would score the first and pass over the rest."
    for said, gold in (["a"], ["a", "b"]), (["a", "b"], ["a"]), ([], []):
        with pytest.raises(ValueError, match="give one for each"): bleu(said, gold)
    rows = pairs_of("question", seeds=[1])
    with pytest.raises(ValueError): text_scores("question", rows, [])
    with pytest.raises(ValueError, match="nothing to score"): text_scores("question", [], [])
    with pytest.raises(ValueError, match="there are question"): text_scores("poem", rows, ["a"])
    with pytest.raises(ValueError, match="there are question"): text_baselines("poem", rows, rows)


def test_rouge_equals_the_package():
    "On English, the numbers of rouge-score; on Chinese it has none."
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    usual = scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    stories = [Tales().sample(seed) for seed in range(40)]
    texts = [story.text for story in stories] + [story.summary for story in stories] + ["", "Mia"]
    for said, gold in zip(texts, texts[1:] + texts[:1]):
        theirs = usual.score(gold, said)
        for name, value in rouge(said, gold).items():
            assert value == pytest.approx(theirs[name].fmeasure, abs=1e-9), (name, said, gold)
    chinese = Tales("zh").sample(3).summary
    assert usual.score(chinese, chinese)["rougeL"].fmeasure == 0
    assert rouge(chinese, chinese)["rougeL"] == 1


def test_bleu():
    "Equal texts get 100 in both languages; Chinese is not cut at spaces that are not there."
    for lang in LANGS:
        text = Tales(lang).sample(3).text
        assert bleu([text], [text]) == dict(bleu=pytest.approx(100), chrf=pytest.approx(100))
    said, gold = "现在米娅在山洞里。只有米娅笑了。", "现在米娅在磨坊里。只有米娅笑了。"
    assert bleu([said], [gold])["bleu"] > 50


def test_same_told():
    "A translation tells the same; with one person exchanged a sentence less; nonsense nothing."
    story = Tales().sample(1_000_004)
    assert same_told(story.translation, story.text) == 1
    wrong = story.text.replace("One day Nina gave Lucy", "One day Lucy gave Nina")
    assert same_told(wrong, story.text) == pytest.approx(1 - 1 / len(story.events))
    assert same_told("What a day!", story.text) == same_told("", story.text) == 0
    assert what_is_told("Mia smiled. Only") == [None, None]


@pytest.mark.parametrize("lang", LANGS)
def test_questions_are_no_bag_of_words(lang):
    "Which words are there does not tell the answer, also with 2,048 examples."
    train = pairs_of("question", lang, range(1_000_000, 1_002_048))
    rows = pairs_of("question", lang, range(3_000_000, 3_000_300))
    for answerer in (most_frequent, bag_of_words):
        assert text_scores("question", rows, answerer(train, rows))["exact"] <= 0.5


@pytest.mark.parametrize("task", TEXT_TASKS)
def test_baselines_do_not_reach_the_best(task):
    train, rows = pairs_of(task), pairs_of(task, seeds=SEEDS)
    for name, said in text_baselines(task, train, rows).items():
        assert len(said) == len(rows) and text_scores(task, rows, said)["exact"] < 0.6, name


def test_log_probs():
    "The likelihoods are those of `score`: of prompt and answer, less those of the prompt."
    model, tok = GPT.from_pretrained("tales-short", torch.float32), load_tokenizer("tales-short")
    text, other = (Tales().sample(seed).text + "<|end|>" for seed in (5, 6))
    whole = log_probs_of(model, tok, ["", ""], [text[:-7], other[:-7]])
    ends = log_probs_of(model, tok, [text[:-7], other[:-7]], ["\n", "\n"])
    assert all(end < 0 for end in ends)
    for value, s, t in zip(whole, score(model, tok, [text[:-7], other[:-7]]), (text, other)):
        ids = [tok.end_id, *tok.encode(t[:-7])]
        end = model(torch.tensor([ids]))[0, -1].log_softmax(-1)[tok.end_id].item()
        assert -(value + end) / math.log(2) == pytest.approx(s.bits, abs=1e-2)
    cut = text.index(" Now")
    parts = log_probs_of(model, tok, ["", text[:cut]], [text[:cut], text[cut:-7]])
    assert sum(parts) == pytest.approx(whole[0], abs=1e-3)


def test_choices_and_own_words():
    "The right answer is among the choices, and its sentence is one of the world."
    for row in pairs_of("question", seeds=SEEDS):
        choices = choices_for(row)
        assert row["target"] in choices and len(choices) > 1
        assert Tales().check(in_own_words(row["text"], row["target"])).sentences == 1


def test_likeliest_of_unequally_many():
    "The likelihoods, one after the other, decide; as many lists of choices as prompts."
    model, tok = GPT.from_pretrained("tales-short", torch.float32), load_tokenizer("tales-short")
    prompts, choices = ["Once a", "Only Mia"], [[" Mia", " shy", " the"], [" smiled.", " lamp."]]
    picked = likeliest(model, tok, prompts, choices)
    for prompt, some, i in zip(prompts, choices, picked):
        alone = [log_probs_of(model, tok, [prompt], [answer])[0] for answer in some]
        assert alone[i] == max(alone)
    assert len(picked) == 2 and likeliest(model, tok, [], []) == []
    with pytest.raises(ValueError): likeliest(model, tok, prompts, choices[:1])


@pytest.mark.parametrize("text", ["A story.\nDid the dream of Mia come true?", "A story.", ""])
def test_what_cannot_be_said_in_words_of_the_world(text):
    with pytest.raises(ValueError, match="no English question of who, where or what"):
        in_own_words(text, "yes")
