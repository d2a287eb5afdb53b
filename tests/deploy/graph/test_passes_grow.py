"""Concatenations that grow: one buffer where units alone read them."""

import pytest
import torch
from graph_toys import settle
from torch import nn

from rebnn_mm.deploy.graph.passes.grow import Begin, extend
from rebnn_mm.deploy.kernels import library
from rebnn_mm.layers import ReBNNConv2d


class Dense(nn.Module):
    """DenseNet's block, as torchvision (``from_all``: all maps joined each time) or as CSP networks write it."""

    def __init__(self, from_all, read=()):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 5 * i), nn.ReLU(), ReBNNConv2d(8 + 5 * i, 5, 3, padding=1))
            for i in range(4)
        )
        self.last = nn.BatchNorm2d(28)
        self.from_all, self.read = from_all, read

    def forward(self, x):
        joined, extra = self.first(x), 0
        maps = [joined]
        for i, layer in enumerate(self.layers):
            maps.append(layer(joined))
            joined = torch.cat(maps if self.from_all else [joined, maps[-1]], 1)
            extra = extra + joined.mean() if i in self.read else extra
        return self.last(joined) + extra


def steps(network):
    return [str(step) for step in network._program()._steps]


@pytest.mark.slow
@pytest.mark.parametrize("isa", library.isas())
@pytest.mark.parametrize("from_all", [True, False])
def test_a_growing_concatenation_is_one_buffer(packed, threads, from_all, isa):
    torch.manual_seed(0)
    module = settle(Dense(from_all))
    with library.use_isa(isa), torch.no_grad():
        _, network = packed(module, torch.randn(2, 3, 6, 7))
        assert "cat" not in steps(network)
        assert steps(network).count("begin") == 1 and steps(network).count("extend") == 3
        for count in (1, 2):
            threads(count)
            for shape in ((1, 3, 6, 7), (2, 3, 33, 1), (1, 3, 1, 1), (0, 3, 5, 5)):
                x = torch.randn(shape)
                for _ in range(3):
                    assert torch.equal(network(x), module(x))


@pytest.mark.parametrize("from_all", [True, False])
def test_what_others_read_has_memory_of_its_own(packed, from_all):
    torch.manual_seed(0)
    module = settle(Dense(from_all, read=(2,)))
    _, network = packed(module, torch.randn(2, 3, 6, 7))
    found = steps(network)
    assert [found.count(name) for name in ("begin", "extend", "cat")] == [1, 2, 1]
    x = torch.randn(2, 3, 6, 7)
    with torch.no_grad():
        assert torch.equal(network(x), module(x))


def test_a_buffer_without_room_is_refused():
    first = Begin(5)(torch.randn(1, 3, 2, 2))
    with pytest.raises(ValueError, match="6 channels in a concatenation of 5"):
        extend(first, torch.randn(1, 3, 2, 2))
    with pytest.raises(ValueError, match="6 channels in a concatenation of 5"):
        Begin(5)(torch.randn(1, 6, 2, 2))
    assert extend(first, torch.ones(1, 2, 2, 2)).is_contiguous(memory_format=torch.channels_last)
