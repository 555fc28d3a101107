"Backpropagation by hand against torch's, and the networks that learn by gradient."
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from gpt_nb.gradient import Bigram, Value, WindowMLP

KINDS = ["+", "-", "*", "/", "square", "cube", "inverse", "exp", "log", "relu"]
STEP = st.tuples(st.sampled_from(KINDS), st.integers(0, 99), st.integers(0, 99))


def operate(kind, x, y):
    "One step of a formula; of numbers up to 2 it makes one up to 2."
    if kind == "+": return (x + y) * 0.5
    if kind == "-": return 0.5 * (x - y)
    if kind == "*": return x * y * 0.5
    if kind == "/": return x / (y * y + 1)
    if kind == "square": return (x * 0.3)**2 + y / 2
    if kind == "cube": return (y * 0.2)**3 - x / 2
    if kind == "inverse": return 2 / (x * x + y * y + 1)
    if kind == "exp": return (-(x * x)).exp() * y
    if kind == "log": return 0.4 * ((x * x + 0.5).log() + 1 - y)
    return (x.relu() + (3 - y).relu()) / 4


def formula(leaves, steps):
    known = list(leaves)
    for kind, i, j in steps:
        known.append(operate(kind, known[i % len(known)], known[j % len(known)]))
    return sum(known[-3:])


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=4), st.lists(STEP, min_size=1, max_size=25))
@settings(max_examples=300, deadline=None)
def test_equals_autograd(numbers, steps):
    ours = [Value(x) for x in numbers]
    theirs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in numbers]
    y, z = formula(ours, steps), formula(theirs, steps)
    z.backward()
    y.backward()
    assert y.data == pytest.approx(z.item(), rel=1e-9, abs=1e-12)
    for x, t in zip(ours, theirs):
        assert x.grad == pytest.approx(0.0 if t.grad is None else t.grad.item(), rel=1e-9, abs=1e-9)


@given(st.floats(0.1, 3), st.floats(-3, 3))
def test_equals_wiggling(a, b):
    def f(a, b): return (a * b + 1) / (a + 2) - a**3 + (1 + (b * b)) ** 0.5
    x, y, h = Value(a), Value(b), 1e-6
    f(x, y).backward()
    assert x.grad == pytest.approx((f(a + h, b) - f(a - h, b)) / (2 * h), rel=1e-4, abs=1e-4)
    assert y.grad == pytest.approx((f(a, b + h) - f(a, b - h)) / (2 * h), rel=1e-4, abs=1e-4)


def test_plain_numbers_on_either_side():
    x = Value(4.0)
    slopes = [(1 + x, 1), (x + 1, 1), (3 * x, 3), (x * 3, 3), (1 - x, -1), (x - 1, 1),
              (8 / x, -0.5), (x / 8, 0.125), (-x, -1)]
    for y, want in slopes:
        x.grad = 0.0
        y.backward()
        assert x.grad == pytest.approx(want)


def test_slopes_add_up_over_uses_and_over_calls():
    x = Value(3.0)
    y = x * x + x
    y.backward()
    assert x.grad == 7
    y.backward()                      # as in torch: added to what is there
    assert x.grad == 14
    t = torch.tensor(3.0, requires_grad=True)
    z = t * t + t
    z.backward(retain_graph=True)
    z.backward()
    assert t.grad.item() == 14


def test_a_long_chain_needs_no_deep_stack():
    x, y = Value(0.5), Value(0.0)
    for _ in range(20_000): y = y + x
    y.backward()
    assert x.grad == 20_000 and y.data == 10_000


def test_the_trail_holds_each_value_once_and_the_latest_first():
    a, b = Value(2.0), Value(3.0)
    product = a * b
    y = product + product * a
    trail = y.trail()
    assert trail[0] is y and len(trail) == len(set(trail)) == 5
    for i, each in enumerate(trail): assert all(trail.index(parent) > i for parent in each.parents)


def test_softmax_minus_what_came():
    z = [Value(x) for x in (2.0, 1.0, 0.0)]
    powers = [x.exp() for x in z]
    (-(powers[1] / sum(powers)).log()).backward()
    p = torch.tensor([2.0, 1.0, 0.0]).softmax(0).tolist()
    assert [x.grad for x in z] == pytest.approx([p[0], p[1] - 1, p[2]])


def test_what_has_no_value_says_so():
    with pytest.raises(ValueError): Value(-1.0).log()
    with pytest.raises(ZeroDivisionError): 1 / Value(0.0)
    with pytest.raises((TypeError, ValueError)): Value(1.0) + "one"
    with pytest.raises(TypeError, match="complex"): Value(-1.0)**0.5
    with pytest.raises((TypeError, ValueError)): Value("one")
    assert repr(Value(math.pi)) == "Value(3.142, grad=0)"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_powers_at_zero_are_those_of_torch(n):
    x, t = Value(0.0), torch.zeros((), requires_grad=True)
    y, z = x**n, t**n
    y.backward()
    z.backward()
    assert (y.data, x.grad) == (z.item(), t.grad.item())


def test_bigram_knows_the_last_token_only():
    net = Bigram(6)
    with torch.no_grad(): net.table.weight.normal_()
    a, b = net(torch.tensor([[1, 2, 3], [4, 5, 3]]))
    assert a.shape == (3, 6) and torch.equal(a[2], b[2]) and not torch.equal(a[1], b[1])
    assert torch.equal(Bigram(6)(torch.tensor([[2]])).softmax(-1), torch.full((1, 1, 6), 1 / 6))


def test_bigram_learns_what_is_counted():
    ids = torch.tensor([0, 1, 2, 0, 1, 1, 2, 0, 2, 2, 1, 0, 1, 2, 0, 1])
    counts = torch.zeros(3, 3).index_put_((ids[:-1], ids[1:]), torch.tensor(1.0), accumulate=True)
    net = Bigram(3)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=0.0)
    for _ in range(400):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(ids[None, :-1])[0], ids[1:]).backward()
        optimizer.step()
    shares = counts / counts.sum(1, keepdim=True)
    assert torch.allclose(net(torch.arange(3)[None])[0].softmax(-1), shares, atol=0.01)


def test_window_mlp_sees_its_window_and_no_more():
    torch.manual_seed(0)
    net, ids = WindowMLP(vocab_size=7, d_embed=3, d_hidden=16, width=4), torch.randint(7, (2, 12))
    out = net(ids)
    assert out.shape == (2, 12, 7)
    for place in range(12):
        other = ids.clone()
        other[:, place] = (other[:, place] + 1) % 7
        moved = (net(other) - out).abs().amax((0, 2)) > 0
        assert moved.nonzero().flatten().tolist() == list(range(place, min(place + 4, 12)))


def test_window_mlp_pads_with_the_token_it_is_given():
    torch.manual_seed(0)
    net, ids = WindowMLP(7, 3, 16, width=4, pad=5), torch.tensor([[1, 2, 3]])
    longer = torch.tensor([[5, 5, 5, 1, 2, 3]])
    assert torch.allclose(net(ids), net(longer)[:, 3:], atol=1e-6)


NETS = Bigram(7), WindowMLP(7, 3, 16, width=4), WindowMLP(7, 3, 16, width=1)


@pytest.mark.parametrize("net", NETS, ids=["bigram", "width 4", "width 1"])
@pytest.mark.parametrize("B, T", [(2, 0), (0, 3), (2, 1)])
def test_texts_of_no_token_and_of_one(net, B, T):
    assert net(torch.zeros(B, T, dtype=torch.long)).shape == (B, T, 7)
