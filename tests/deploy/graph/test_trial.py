"""Networks that take another way for another size, and whether their graphs may be for any size."""

import copy
import math

import pytest
import torch
from graph_toys import settle
from torch import nn
from torch.nn.functional import interpolate, max_pool2d, scaled_dot_product_attention

from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.sizes import needs_one_size
from rebnn_mm.deploy.graph.trial import alike
from rebnn_mm.errors import UserError
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear


class Patches(nn.Module):
    """Resizes maps of odd sizes, as MobileViT does, so that they can be cut into patches of 2x2."""

    def __init__(self):
        super().__init__()
        self.conv = ReBNNConv2d(3, 4, 3, padding=1, input_norm=True)

    def forward(self, x):
        x = self.conv(x)
        n, c, h, w = x.shape
        even = tuple(2 * math.ceil(size / 2) for size in (h, w))
        if even != (h, w):
            x = interpolate(x, size=even, mode="bilinear")
        x = x.reshape(n, c, even[0] // 2, 2, even[1] // 2, 2).amax((3, 5))
        return x.sum((2, 3))


class Skip(nn.Module):
    """Fits even sizes only, as a U-Net does: the sum fails for others, here and in the graph."""

    def __init__(self):
        super().__init__()
        self.conv = ReBNNConv2d(3, 3, 3, padding=1, input_norm=True)

    def forward(self, x):
        return x + interpolate(self.conv(max_pool2d(x, 2)), scale_factor=2)


def test_a_network_that_takes_another_way_for_odd_sizes_gets_a_graph_for_its_size(packed):
    model, x = settle(Patches()), torch.randn(2, 3, 8, 12)
    traced, network = packed(model, x)
    assert traced.inputs[0].shape == (None, 3, 8, 12)
    assert torch.equal(network(x), model(x))
    with pytest.raises(UserError, match=r"the network takes \(>=0, 3, 8, 12\)"):
        network(torch.randn(2, 3, 9, 12))  # a graph for even sizes would fail in the middle


def test_so_does_one_of_two_inputs(packed):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.of = Patches()

        def forward(self, a, b):
            return self.of(a) - 2 * self.of(b)

    traced, _ = packed(settle(Pair()), torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8))
    assert [spec.shape for spec in traced.inputs] == [(None, 3, 8, 8)] * 2


def test_it_is_refused_where_any_size_is_wanted():
    with pytest.raises(UserError, match="Patches takes another way for other sizes of its input"):
        capture(settle(Patches()), [torch.randn(2, 3, 10, 10)], any_size=True)


def test_a_network_that_fails_for_odd_sizes_itself_keeps_a_graph_for_any_size(packed):
    model, x = settle(Skip()), torch.randn(2, 3, 8, 12)
    traced, network = packed(model, x)
    assert traced.inputs[0].shape == (None, 3, None, None)
    larger = torch.randn(1, 3, 10, 14)
    assert torch.equal(network(larger), model(larger))


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_is_seen_in_torchs_own_kernel(heads):
    """Under that name torch runs it on a CPU: scaled_dot_product_flash_attention_for_cpu."""

    class Attention(nn.Module):
        def forward(self, x):
            q = x.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)
            return scaled_dot_product_attention(q, q, q)

    assert needs_one_size(Attention(), [torch.randn(2, 8, 4, 4)]) == "attention"


def test_results_are_alike_but_for_a_few_values():
    a = torch.randn(100)
    few = a.clone()
    few[:10] += 1
    assert alike([a, torch.tensor([True])], [few, torch.tensor([True])])
    assert alike([torch.tensor([float("nan"), 1])], [torch.tensor([float("nan"), 1])])
    assert not alike([a], [a + 0.1])
    assert not alike([a], [a[:50]])
    assert not alike([a], [a, a])


class Levels(nn.Module):
    """A pyramid, each level half as large: the last one of an image of 8 pixels is one pixel, which export notes."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(ReBNNConv2d(3, 3, 3, stride=2, padding=1, input_norm=True) for _ in range(3))

    def forward(self, x):
        levels = [x]
        for conv in self.convs:
            levels.append(conv(levels[-1]).relu())
        return levels[1:]


def test_a_level_of_one_pixel_is_no_other_way(packed):
    model = settle(Levels())
    spec = capture(copy.deepcopy(model), [torch.randn(2, 3, 8, 8)], any_size=True).inputs[0]
    assert spec.shape == (None, 3, None, None)
    _, network = packed(model, torch.randn(2, 3, 8, 8), any_size=True)
    x = torch.randn(1, 3, 24, 20)
    assert all(map(torch.equal, network(x), model(x)))


class Branches(nn.Module):
    """Another way from a size on, of one dimension."""

    def __init__(self, place, size):
        super().__init__()
        self.conv = ReBNNConv2d(3, 4, 3, padding=1, input_norm=True)
        self.place, self.size = place, size

    def forward(self, x):
        y = self.conv(x)
        return (-y if x.shape[self.place] > self.size else y).sum((2, 3))


@pytest.mark.parametrize(
    ("place", "size", "taken"),
    [
        (2, 100, r"\(>=0, 3, 1 to 100, >=1\)"),
        (0, 4, r"\(0 to 4, 3, >=1, >=1\)"),
        (0, 1, r"\(>=2, 3, >=1, >=1\)"),
    ],
)
def test_a_graph_is_refused_beyond_the_sizes_of_its_branch(packed, place, size, taken):
    model, x = settle(Branches(place, size)), torch.randn(2, 3, 8, 8)
    traced, network = packed(model, x)
    least, most = traced.inputs[0].least[place], traced.inputs[0].most[place]
    for inside in (max(least, 1), most or 9):
        shape = [inside if d == place else n for d, n in enumerate(x.shape)]
        assert torch.equal(network(torch.ones(shape)), model(torch.ones(shape)))
    outside = least - 1 if most is None else most + 1
    with pytest.raises(UserError, match=f"the network takes {taken}"):
        network(torch.ones([outside if d == place else n for d, n in enumerate(x.shape)]))


def test_a_table_that_ends_is_a_bound(packed):
    class Places(nn.Module):
        def __init__(self):
            super().__init__()
            self.places = nn.Parameter(torch.randn(12, 4))
            self.linear = ReBNNLinear(4, 4, input_norm=True)

        def forward(self, x):
            return self.linear(x + self.places[: x.shape[1]])

    model, x = settle(Places()), torch.randn(2, 5, 4)
    traced, network = packed(model, x, any_size=True)
    assert traced.inputs[0].most == (None, 12, None)
    assert torch.equal(network(torch.ones(1, 12, 4)), model(torch.ones(1, 12, 4)))
    with pytest.raises(UserError, match="1 to 12"):
        network(torch.randn(2, 13, 4))
