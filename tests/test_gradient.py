"Networks that learn by gradient."
import torch

from gpt_nb.gradient import Bigram, WindowMLP


def test_bigram_knows_the_last_token_only():
    net = Bigram(6)
    with torch.no_grad(): net.table.weight.normal_()
    a, b = net(torch.tensor([[1, 2, 3], [4, 5, 3]]))
    assert a.shape == (3, 6) and torch.equal(a[2], b[2]) and not torch.equal(a[1], b[1])
    assert torch.equal(Bigram(6)(torch.tensor([[2]])).softmax(-1), torch.full((1, 1, 6), 1 / 6))


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
    assert torch.allclose(net(ids), net(longer)[:, 3:])
