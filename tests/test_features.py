"""Features: a known dictionary is found again, exactly k are on, rows have length 1, facts agree
with the world, turning does what it says, and bad input is told."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_nb.checkpoint import load_tokenizer
from gpt_nb.features import (SparseAutoencoder, best_cosines, best_units, f1_of, fact_table,
                             fit_features, group_of, linear_scores, loss_with, move_feature,
                             random_dictionary, read_stream, set_feature, share_by_group,
                             variance_explained, word_facts)
from gpt_nb.interpret import trace
from gpt_nb.model import GPT
from gpt_nb.tales import Tales

AT = "layers.0.resid"


def made_of_few(n=4000, m=20, d=10, share=0.06, seed=0):
    "Vectors in which a few of m directions are on, and these directions."
    draw = torch.Generator().manual_seed(seed)
    truth = F.normalize(torch.randn(m, d, generator=draw), dim=-1)
    on = torch.rand(n, m, generator=draw) < share
    return (on * (0.5 + torch.rand(n, m, generator=draw))) @ truth, truth


@pytest.fixture(scope="module")
def fitted():
    x, truth = made_of_few()
    return x, truth, fit_features(x, 30, 3, steps=500, batch_size=256, lr=1e-2)


@pytest.fixture(scope="module")
def growing():
    return (GPT.from_pretrained("growing/003000", dtype=torch.float32).eval(),
            load_tokenizer("growing/003000"))


def test_a_known_dictionary_is_found(fitted):
    x, truth, sae = fitted
    found = best_cosines(truth, sae.decoder)
    chance = best_cosines(truth, random_dictionary(sae).decoder)
    assert found.mean() > 0.93 and (found > 0.9).float().mean() > 0.8
    assert chance.mean() < found.mean() - 0.15
    assert variance_explained(x, sae(x)) > 0.8 > variance_explained(x, random_dictionary(sae)(x))


def test_rows_have_length_1_and_nothing_is_trained_further(fitted):
    sae = fitted[2]
    assert torch.allclose(sae.decoder.norm(dim=-1), torch.ones(30), atol=1e-5)
    assert not any(p.requires_grad for p in sae.parameters())


def test_the_same_seed_gives_the_same_dictionary():
    x, _ = made_of_few(500)
    a, b, c = (fit_features(x, 12, 2, steps=5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.decoder, b.decoder) and not torch.equal(a.decoder, c.decoder)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 11), st.integers(0, 1000))
def test_at_most_k_are_on_and_none_is_negative(width, k, seed):
    k = min(k + 1, width)
    torch.manual_seed(seed)
    sae = SparseAutoencoder(6, width, k)
    sae.bias.data.fill_(50.0)   # all would be on
    on = sae.encode(torch.randn(2, 5, 6))
    assert on.shape == (2, 5, width) and ((on > 0).sum(-1) == k).all()
    sae.bias.data.fill_(-50.0)
    assert (sae.encode(torch.randn(7, 6)) == 0).all()


def test_what_is_decoded_is_the_sum(fitted):
    x, _, sae = fitted
    on = sae.encode(x[:3])
    by_hand = sae.centre + sae.scale * sum(on[:, f, None] * sae.decoder[f] for f in range(30))
    assert torch.allclose(sae(x[:3]), by_hand, atol=1e-5)


def test_f1_is_that_of_scikit_learn():
    from sklearn.metrics import f1_score

    draw = torch.Generator().manual_seed(0)
    said, true = ((torch.rand(200, n, generator=draw) < 0.4).float() for n in (3, 4))
    ours = f1_of(said, true)
    for i in range(3):
        for j in range(4):
            assert ours[i, j].item() == pytest.approx(f1_score(true[:, j], said[:, i]))


def test_the_best_unit_is_chosen_on_one_half_and_scored_on_the_other():
    draw = torch.Generator().manual_seed(0)
    facts = (torch.rand(4000, 2, generator=draw) < 0.1).float()
    units = torch.rand(4000, 5, generator=draw) * 0.5
    units[:, 3] += facts[:, 0]
    units[:2000, 1] += facts[:2000, 1]   # tells it where it is chosen, and nowhere else
    chosen = torch.arange(4000) < 2000
    match = best_units(units, facts, chosen)
    assert match.unit.tolist() == [3, 1]
    assert match.f1[0] > 0.9 and match.f1[1] < 0.3


def test_the_share_of_groups():
    groups = torch.arange(3000) % 3
    noise = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    units = torch.stack([groups.float(), noise, groups + noise], 1)
    share = share_by_group(units, groups, torch.arange(3000) % 2 == 0)
    assert share[0] > 0.99 and abs(share[1]) < 0.01 and 0.3 < share[2] < 0.5   # 2/3 of 5/3


def test_a_probe_finds_what_is_a_sum():
    x = torch.randn(2000, 6, generator=torch.Generator().manual_seed(0))
    facts = ((x[:, :1] - x[:, 1:2]) > 0).float()
    chosen = torch.arange(2000) < 1000
    scores = linear_scores(x, facts, chosen)
    assert ((scores > 0.5).float() == facts)[~chosen].float().mean() > 0.95


@pytest.mark.parametrize("level", [1, 2])
def test_facts_are_those_of_the_world(level):
    for story in (Tales(level=level).sample(seed) for seed in range(20)):
        facts = word_facts(story)
        assert len(facts) == len(story.words)
        assert all(f"the word is {word}" in said for word, said in zip(story.words, facts))
        assert ("it looks well for the hero" in facts[-1]) == (story.mood == "happy")
        how, who = story.scene.things[0]
        holder = "nobody" if how == "in" else f"the {('hero', 'friend', 'other')[who]}"
        assert f"{holder} has the thing" in facts[-1]
        assert ["next comes: end" in said for said in facts].index(True) == len(facts) - 1


def test_the_table_counts_what_is_said():
    stories = [Tales().sample(seed) for seed in range(30)]
    facts, table = fact_table(stories, least=5)
    said = [fact for story in stories for fact in word_facts(story)]
    assert table.shape == (len(said), len(facts)) and facts == sorted(facts)
    for column, fact in enumerate(facts):
        assert table[:, column].sum() == sum(fact in words for words in said) >= 5
    groups = {group_of(fact) for fact in facts}
    assert groups == {"this word", "kind of word next", "part of story", "who was named last",
                      "who, what, where", "the state"}


def test_what_is_read_is_the_stream(growing):
    model, tok = growing
    texts = Tales().texts(7, seed=3)
    reading = read_stream(model, tok, texts, AT, batch_size=3)
    with torch.no_grad(), trace(model, names=[AT]) as acts:
        model(torch.tensor([[tok.end_id, *tok.encode(texts[4])]]))
    one = reading.x[reading.story == 4]
    assert torch.allclose(one, acts[AT][0, 1:], atol=1e-4)
    assert tok.decode(reading.ids[reading.story == 4].tolist()).strip() == texts[4]
    whole = loss_with(model, reading)
    assert whole == pytest.approx(loss_with(model, reading, {AT: lambda x: x}))
    assert loss_with(model, reading, {AT: torch.zeros_like}) > whole + 1


def test_a_feature_is_set_and_moved():
    torch.manual_seed(0)
    sae = SparseAutoencoder(8, 8, 8)
    sae.decoder.data = torch.eye(8)   # directions at right angles: a change of one is that alone
    sae.encoder.data = torch.eye(8)
    x = torch.rand(3, 5, 8) + 0.1
    x[0, :, 2] = 0
    off = set_feature(sae, 2, 0.0)(x)
    assert torch.allclose(off[..., 2], torch.zeros(3, 5)) and off.shape == x.shape
    assert torch.allclose(off[..., 3:], x[..., 3:])
    moved = move_feature(sae, 2, 5, least=2.0)(x)
    assert torch.equal(moved[0], x[0])   # where it is not on nothing happens
    assert torch.allclose(moved[1:, :, 2], torch.zeros(2, 5), atol=1e-6)
    assert torch.allclose(moved[1:, :, 5], torch.full((2, 5), 2.0))
    both = move_feature(sae, [2, 3], 5)(x)
    assert torch.allclose(both[..., 5], x[..., 2:4].amax(-1))


@pytest.mark.parametrize("call, said", [
    (lambda: SparseAutoencoder(4, 8, 9), "k is 9"),
    (lambda: SparseAutoencoder(4, 8, 0), "k is 0"),
    (lambda: SparseAutoencoder(0, 8, 1), "d_model is 0"),
    (lambda: fit_features(torch.randn(3, 2, 4), 8, 1), r"\(3, 2, 4\)"),
    (lambda: fit_features([[1.0]], 8, 1), "list"),
    (lambda: fit_features(torch.empty(0, 4), 8, 1), r"\(0, 4\)"),
    (lambda: fit_features(torch.full((9, 4), float("nan")), 8, 1), "not finite"),
    (lambda: fit_features(torch.randn(9, 4), 8, 1, steps=0), "steps is 0"),
    (lambda: set_feature(SparseAutoencoder(4, 8, 1), 8, 0.0), "features 0 to 7"),
    (lambda: move_feature(SparseAutoencoder(4, 8, 1), [0, -1], 1), "feature is -1"),
])
def test_bad_input_is_told(call, said):
    with pytest.raises(ValueError, match=said): call()


@pytest.mark.parametrize("texts, said", [("one text", "give a list"), ([], "give a list"),
                                         (["Mia smiled. " * 40], "leave it out")])
def test_bad_texts_are_told(growing, texts, said):
    with pytest.raises(ValueError, match=said): read_stream(*growing, texts, AT)


def test_a_name_that_is_none_is_told(growing):
    with pytest.raises(ValueError, match="layers.0.resid"):
        read_stream(*growing, ["Mia smiled."], "layers.0.residual")


def test_what_cannot_be_split_or_moved():
    units, facts = torch.rand(20, 3), (torch.rand(20, 2) > 0.5).float()
    half = torch.arange(20) < 10
    for bad in (half.long(), half[:5], half | True, half & False):
        for call, other in ((best_units, facts), (linear_scores, facts),
                            (share_by_group, torch.arange(20) % 3)):
            with pytest.raises(ValueError, match="truth values"): call(units, other, bad)
    assert share_by_group(torch.zeros(20, 1), torch.arange(20) % 3, half).item() == 0
    assert best_units(units.half(), facts.bool(), half).f1.isfinite().all()
    sae = SparseAutoencoder(4, 6, 2).requires_grad_(False)
    x = torch.randn(5, 4)
    assert torch.equal(move_feature(sae, [1, 1], 2)(x), move_feature(sae, 1, 2)(x))
    for off in ([], 2, [1, 2]):
        with pytest.raises(ValueError, match="another to switch on"): move_feature(sae, off, 2)
    for odd in (1.5, True):
        with pytest.raises(TypeError, match="number"): set_feature(sae, odd, 0.0)
    with pytest.raises(TypeError, match="whole numbers"): SparseAutoencoder(4, 6, 2.0)
    with pytest.raises(ValueError, match="one shape"): variance_explained(x, x[:1])
    low = x.bfloat16()
    assert sae(low).dtype == set_feature(sae, 1, 0.0)(low).dtype == torch.bfloat16
