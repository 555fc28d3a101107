"What the page of chapter 16c does not show: the loss beside trl's, resuming, rules, distances."
import copy
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.finetuning import pad_rows
from gpt_nb.model import GPT
from gpt_nb.preferences import (NoTokens, NoWords, Pair, PairBatches, Pairs, Preferring, TrueWords,
                                answer_row, best_and_worst, best_of_n, distance, dpo_loss,
                                checksum_of, kl_of_best, least_kl, log_probs, pair_rows, prefer,
                                rank_pairs, stands_still, tell_on, told)
from gpt_nb.tales import STOP, Tales
from gpt_nb.training import Run


@pytest.fixture(scope="module")
def body():
    "An early, quick writer."
    return GPT.from_pretrained("growing/000800", torch.float32), load_tokenizer("growing/000800")


@pytest.fixture(scope="module")
def pairs(body):
    "True and false ends of stories of the world."
    gpt, tok = body
    found = []
    for seed in range(40):
        sentences = Tales().sample(seed).text.split(". ")
        prompt = [tok.end_id, *tok.encode(". ".join(sentences[:-1]) + ".")]
        names = [w for w in sentences[0].split() if w[0].isupper() and w != "Once"]
        friend = sentences[1].split()[-1]
        true, = [n for n in (names[0], friend) if n in sentences[-1]]
        false = friend if true == names[0] else names[0]
        found.append(Pair(prompt, *([*tok.encode(f" Only {n} smiled."), tok.end_id]
                                    for n in (true, false))))
    return found


def test_the_loss_is_the_formula():
    torch.manual_seed(0)
    four = torch.randn(4, 64, dtype=torch.float64) * 10 - 40
    for beta in (0.01, 0.1, 1.0):
        by_hand = [math.log1p(math.exp(-beta * ((c - rc) - (r - rr))))
                   for c, r, rc, rr in zip(*four.tolist())]
        assert dpo_loss(*four, beta).item() == pytest.approx(sum(by_hand) / 64, abs=1e-12)


class Said(SimpleNamespace):
    "What trl's loss reads of a model's answer."


def test_the_loss_is_trls():
    "Its own code on random numbers; the parts that would need a model or a machine are stand-ins."
    dpo_trainer = pytest.importorskip("trl.trainer.dpo_trainer", reason="trl is not installed")
    from collections import defaultdict

    torch.manual_seed(1)
    B, T = 6, 9
    mask = torch.ones(2 * B, T, dtype=torch.long)
    mask[:, :3] = 0
    nats = -torch.rand(2 * B, T - 1) * 4 * mask[:, 1:]   # theirs are 0 in the prompt
    reference = -torch.rand(2, B) * 30
    zeros = torch.zeros(2 * B, T - 1)
    said = Said(log_probs=nats, entropies=zeros, entropy=zeros, mean_logits=zeros,
                is_top1=zeros.bool(), loss=torch.tensor(0.0))

    def model(**given): return said
    model.training = True
    trainer = SimpleNamespace(
        model=model, accelerator=SimpleNamespace(device="cpu", gather=lambda x: x,
                                                 gather_for_metrics=lambda x: x),
        aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True, beta=0.3,
        f_divergence_type="reverse_kl", loss_types=["sigmoid"], loss_weights=[1.0],
        use_weighting=False, _metrics=defaultdict(lambda: defaultdict(list)), label_smoothing=0.0,
        args=SimpleNamespace(), is_encoder_decoder=False, _total_train_tokens=0, _tp_size=1)
    given = dict(input_ids=torch.ones(2 * B, T, dtype=torch.long), attention_mask=mask,
                 completion_mask=mask, ref_chosen_logps=reference[0],
                 ref_rejected_logps=reference[1])
    theirs = dpo_trainer.DPOTrainer._compute_loss(trainer, model, given, False)
    chosen, rejected = nats.sum(1).chunk(2)
    ours = dpo_loss(chosen, rejected, *reference, beta=0.3)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)


def test_the_loss_wants_one_number_an_answer():
    with pytest.raises(ValueError, match="one number for each whole answer"):
        dpo_loss(*torch.zeros(4, 2, 7))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        dpo_loss(torch.zeros(2), torch.zeros(3), torch.zeros(2), torch.zeros(2))


def test_the_prompt_does_not_count(body, pairs):
    gpt, tok = body
    prompt, answer, _ = pairs[0]
    x, y = pad_rows([answer_row(prompt, answer)], tok.end_id)
    with torch.no_grad():
        log_p = gpt(torch.tensor([prompt + answer]))[0].log_softmax(-1)
        by_hand = sum(log_p[len(prompt) + i - 1, t].item() for i, t in enumerate(answer))
        assert log_probs(gpt, x, y).item() == pytest.approx(by_hand, abs=1e-4)
        rows = [answer_row(prompt, answer), answer_row(prompt, answer * 2)]
        longer, targets = pad_rows(rows, tok.end_id)
        assert log_probs(gpt, longer, targets)[0].item() == pytest.approx(by_hand, abs=1e-4)


def test_batches_are_a_pure_function_and_miss_no_pair(pairs):
    a, b = (PairBatches(pairs, 8, 3, 0) for _ in range(2))
    for step in (7, 0, 3):
        assert all(torch.equal(p, q) for p, q in zip(a[step], b[step]))
    epoch = torch.cat([F.pad(a[i][0], (0, 60 - a[i][0].shape[1])) for i in range(5)])
    every = pair_rows(pairs, 0)[0]
    every = F.pad(every, (0, 60 - every.shape[1]))
    assert sorted(epoch.tolist()) == sorted(every.tolist())
    shares = [PairBatches(pairs, 8, 3, 0, rank, 2)[0][0] for rank in (0, 1)]
    assert sum(len(x) for x in shares) == 16


def test_training_learns_what_won(body, pairs):
    gpt, tok = body
    before = copy.deepcopy(gpt.state_dict())
    run = prefer(gpt, tok, [Pair(p, b, a) for p, a, b in pairs], 0.3, 12, show=False)   # the false
    assert all(torch.equal(p, before[name]) for name, p in gpt.state_dict().items())
    assert rank_pairs(run.model, gpt, pairs, tok.end_id).right < 0.1   # labels swapped
    right = prefer(gpt, tok, pairs, 0.3, 12, val=pairs, show=False)
    assert rank_pairs(right.model, gpt, pairs, tok.end_id).right > 0.9
    assert right.history[0]["val_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert right.val_loss < 0.6 and right.score > 0.9
    assert len(right.model.notes) == 12


def test_a_stopped_run_goes_on_bit_for_bit(body, pairs, tmp_path):
    gpt, tok = body
    whole = prefer(gpt, tok, pairs, steps=8, batch_size=8, seed=5, show=False)

    def stop(row):
        if row["step"] == 4: raise KeyboardInterrupt

    how = dict(steps=8, batch_size=8, seed=5, show=False, out=tmp_path / "run", log_every=1)
    with pytest.raises(KeyboardInterrupt): prefer(gpt, tok, pairs, watch=stop, **how)
    resumed = prefer(gpt, tok, pairs, resume=True, **how)
    ours, theirs = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    opened = Run.open(tmp_path / "run")
    assert type(opened.model) is GPT and torch.equal(opened.model.lm_head.weight,
                                                     resumed.model.lm_head.weight)


def test_another_body_is_another_run(body, pairs, tmp_path):
    gpt, tok = body

    def stop(row):
        if row["step"] == 2: raise KeyboardInterrupt

    how = dict(steps=4, batch_size=4, show=False, out=tmp_path / "run", log_every=1)
    with pytest.raises(KeyboardInterrupt): prefer(gpt, tok, pairs, watch=stop, **how)
    other = copy.deepcopy(gpt)
    with torch.no_grad(): other.lm_head.weight.mul_(1.01)
    with pytest.raises(ValueError, match="reference was"):
        prefer(other, tok, pairs, resume=True, **how)
    with pytest.raises(ValueError, match="beta was 0.1"):
        prefer(gpt, tok, pairs, beta=0.2, resume=True, **how)


def test_why_a_loss_stands_still(body, pairs):
    gpt, tok = body
    same = [p._replace(rejected=p.chosen) for p in pairs]
    assert "one object" in stands_still(gpt, gpt, pairs)
    assert "no pairs" in stands_still(gpt, copy.deepcopy(gpt), [])
    assert "the same in all pairs" in stands_still(gpt, copy.deepcopy(gpt), same)
    assert "frozen" in stands_still(copy.deepcopy(gpt).requires_grad_(False), gpt, pairs)
    assert stands_still(gpt, copy.deepcopy(gpt), pairs) == ""
    with pytest.raises(ValueError, match="0.6931"): prefer(gpt, tok, same)


def test_one_object_moves_and_its_loss_does_not(body, pairs):
    gpt = copy.deepcopy(body[0])
    start, learner = gpt.lm_head.weight.clone(), Preferring(gpt, gpt, 0.3).train()
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    for step in range(3):
        loss = learner.loss(*PairBatches(pairs, 8, 0, 0)[step])
        assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (gpt.lm_head.weight - start).abs().max() > 1e-4


def test_best_and_worst():
    answers = [[1], [2], [3], [4], [5], [6]]
    pairs = best_and_worst([[0], [9]], answers, [0.1, 0.9, 0.5, 1, 1, 1])
    assert pairs == [Pair([0], [2], [1])]   # the three of the second prompt are alike
    assert best_and_worst([[0], [9]], answers, [0.1, 0.9, 0.5, 1, 1, 1], least=1) == []
    assert best_of_n(answers, [0.1, 0.9, 0.5, 1, 1, 1], 3) == [[2], [4]]


def test_least_and_bound():
    assert least_kl(0.4, 0.4) == 0 and least_kl(1, 0.25) == pytest.approx(math.log(4))
    for n in (2, 5, 16):
        bound = math.log(n) - (n - 1) / n
        assert kl_of_best(list(range(4000)), n) == pytest.approx(bound, abs=0.01)   # none alike
        tied = [i % 3 for i in range(300)]
        assert kl_of_best(tied, n) < bound
        two = [1] * 40 + [0] * 60
        assert kl_of_best(two, n) == pytest.approx(least_kl(1 - 0.6 ** n, 0.4))   # no less would do


def test_what_is_told():
    begun = "Once a kind girl named Mia lived in the mill. Her friend was a boy named Tom."
    begun += " Mia had a red kite. Tom dreamed of the kite."
    end = " One day Mia gave Tom the kite. Now Tom had the kite. Only Tom smiled."
    good = told("en", begun, end)
    assert good.true == good.facts > 3 and good.whole == 1
    bad = told("en", begun, end.replace("Now Tom", "Now Mia"))
    assert bad.facts == good.facts and bad.true == good.true - 1 and bad.whole == 0
    nonsense = told("en", begun, " Tom kite the." + end)
    assert nonsense.facts == good.facts + 1 and nonsense.true == good.true and not nonsense.whole
    assert told("en", begun, "") == (0, 0, 0.0)


def test_distance_of_itself_and_of_a_cooler_self(body, pairs):
    gpt, tok = body
    prompts = [pairs[0].prompt[:20]] * 60
    answers = tell_on(gpt, tok, prompts, seed=1, temperature=0.7, most=8)
    assert distance(gpt, gpt, prompts, answers, tok.end_id).kl == pytest.approx(0, abs=1e-6)
    far = distance(gpt, gpt, prompts, answers, tok.end_id, temperature=0.7)
    assert far.kl > 0.05 and abs(far.kl - far.sampled) < 4 * (far.error + far.sampled_error)
    assert far.error < far.sampled_error


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_only_true_words_tells_only_true_stories(lang):
    gpt, tok, world = GPT.from_pretrained("tales-short"), load_tokenizer("tales-short"), Tales(lang)
    begun = STOP[lang].join(world.sample(7).text.split(STOP[lang])[:4]) + STOP[lang]
    prompts = [[tok.end_id, *tok.encode(begun)]] * 12
    for answer in tell_on(gpt, tok, prompts, seed=2, rule=TrueWords(world, tok)):
        text = tok.decode([i for i in answer if i != tok.end_id])
        assert world.check(begun + text).story == 1, text
        assert world.log2prob(begun + text) > -math.inf


def test_ban_lists():
    tok = load_tokenizer("tales-both")
    usual = tok.encode(" stole")
    by_ids, by_letters = NoTokens([usual], tok.vocab_size), NoWords(["stole"], tok)
    other = tok.encode(" sto") + [tok.encode("l")[-1], tok.encode("e")[-1]]
    assert tok.decode(other) == " stole" and other != usual
    assert not by_ids(usual[:-1])[usual[-1]] and by_ids(other[:-1])[other[-1]]   # the hole
    assert not by_letters(usual[:-1])[usual[-1]] and not by_letters(other[:-1])[other[-1]]
    assert not by_letters(tok.encode(" STOL"))[tok.encode("E")[-1]]
    assert by_letters(tok.encode(" stol"))[tok.encode("i")[-1]]
    chinese = NoWords(["偷"], tok)
    *start, last = tok.encode("偷")
    assert not chinese(start)[last] and NoTokens([[5]], 10)([1]).tolist().count(False) == 1


def test_pairs_tell_what_they_are(body, pairs):
    one, other = (Pairs(pairs[i:], [], body[1], {"beta": 0.1}) for i in (0, 1))
    assert one.identity() != other.identity() and one.rows(60, 8) is None
    assert one.identity() == Pairs(pairs, [], body[1], {"beta": 0.1}).identity()


def naive_ban(tok, words, ids):
    "Which tokens bring a new occurrence of a word, by looking at the whole text."
    def count(ids): return sum(tok.decode(ids).lower().count(word) for word in words)

    return [count([*ids, i]) == count(ids) for i in range(tok.vocab_size)]


@pytest.mark.parametrize("words, begun", [
    (["stole", "too"], "Tom too"), (["stole", "took"], "Mia took"), (["a"], "a cat sa"),
    (["end"], "Mia lost the"), (["偷", "风筝"], "米娅有一只红色的风筝"), (["kite"], "ki")])
def test_a_word_that_stands_there_already_forbids_nothing_more(words, begun):
    tok = load_tokenizer("tales-both")
    ids = tok.encode(begun)
    plain = [i for i in range(tok.vocab_size) if i != tok.end_id]   # the end is no text: allowed
    rule, naive = NoWords(words, tok)(ids), naive_ban(tok, words, ids)
    assert [rule[i].item() for i in plain] == [naive[i] for i in plain] and rule[tok.end_id]
    assert rule[plain].any()


def test_capitals_beyond_ascii():
    tok = load_tokenizer("tales-both")
    for text in ("ÉTÉ", "été", "Été"):
        *start, last = tok.encode(text)
        assert all(not NoWords([word], tok)(start)[last] for word in ("ÉTÉ", "été"))


def test_rules_that_leave_nothing_or_make_no_sense(body):
    gpt, tok = body
    prompt = [tok.end_id, *tok.encode("Once")]
    nothing = torch.zeros(tok.vocab_size, dtype=torch.bool)
    for temperature in (0, 1):   # the likeliest of nothing would be token 0
        with pytest.raises(ValueError, match="allows no token"):
            tell_on(gpt, tok, [prompt], temperature=temperature, rule=lambda ids: nothing)
    for words in ("stole", [], ["stole", ""]):
        with pytest.raises(ValueError, match="a list of words"): NoWords(words, tok)
    for runs in ([[]], [[tok.vocab_size]], [[-1]]):
        with pytest.raises(ValueError, match="each should hold ids"): NoTokens(runs, tok.vocab_size)


def test_prompts_that_do_not_fit(body):
    gpt, tok = body
    full = [tok.end_id, *tok.encode(Tales().sample(0).text * 3)][:gpt.config.context]
    assert [len(a) for a in tell_on(gpt, tok, [full, full[:-2]], most=9)] == [0, 2]
    assert tell_on(gpt, tok, [full[:5]], most=0) == [[]] and tell_on(gpt, tok, []) == []
    alone, = tell_on(gpt, tok, [full[:9]], most=4)
    assert tell_on(gpt, tok, [full[:9], full[:30]], most=4)[0] == alone
    for prompt in ([], full + [1]):
        with pytest.raises(ValueError, match="which is the context"): tell_on(gpt, tok, [prompt])
    with pytest.raises(ValueError, match="empty prompt"): answer_row([], [1])


def test_answers_and_scores_that_do_not_match(body):
    gpt, tok = body
    for prompts, answers, scores in (([[0], [1]], [[1]] * 3, [1] * 3), ([[0]], [[1]] * 2, [1]),
                                     ([], [], []), ([[0], [1]], [[1]], [1])):
        with pytest.raises(ValueError, match="each its score"):
            best_and_worst(prompts, answers, scores)
    for n in (0, 2):
        with pytest.raises(ValueError, match="give n answers"): best_of_n([[1]] * 3, [1] * 3, n)
    with pytest.raises(ValueError, match="2 prompts, but 1"):
        distance(gpt, gpt, [[1]] * 2, [[1]], 0)
    with pytest.raises(ValueError, match="temperature is 0"):
        distance(gpt, gpt, [[1]], [[1]], 0, temperature=0)
    with pytest.raises(ValueError, match="no pairs"): rank_pairs(gpt, gpt, [], 0)


@pytest.mark.parametrize("beta", [0, -1, math.nan, math.inf])
def test_a_beta_that_stands_still_or_turns_round(body, pairs, beta):
    with pytest.raises(ValueError, match="beta is"): prefer(*body, pairs, beta)


def test_least_kl_of_what_never_was():
    assert least_kl(0.5, 0) == least_kl(0.5, 1) == math.inf and least_kl(0, 0) == 0


def test_told_where_a_word_goes_on():
    assert told("en", "Once a kind girl named Mia lived in the mill", "ed").facts == 0
    assert told("zh", "从前", "  ") == (0, 0, 0.0)


def test_the_reference_is_the_weights_in_their_places(body):
    other = copy.deepcopy(body[0])
    with torch.no_grad(): other.lm_head.weight.copy_(other.lm_head.weight.flip(0))
    assert checksum_of(other) != checksum_of(body[0]) == checksum_of(copy.deepcopy(body[0]))


def test_the_reference_has_no_dropout(body):
    gpt = copy.deepcopy(body[0]).train()
    learner = Preferring(copy.deepcopy(gpt), gpt).train()
    assert learner.lm_head.training and not learner.reference.training
