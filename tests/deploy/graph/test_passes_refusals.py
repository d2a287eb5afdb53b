"""What no pass may take for something else: each network here once gave a wrong result, or none."""

import pytest
import torch
from graph_toys import names, settle
from torch import nn
from torch.nn import functional as F

from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.record import encode
from rebnn_mm.errors import UserError
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear


class Calls(nn.Module):
    """Two 1-bit convolutions, a 1-bit linear layer, a real-valued convolution, and a function that calls them."""

    def __init__(self, function, channels=32):
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.a, self.b = (ReBNNConv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.real = nn.Conv2d(channels, channels, 1)
        self.linear = ReBNNLinear(channels, channels)
        self.register_buffer("table", torch.randn(channels, 1, 1))

    def forward(self, x):
        return self.function(self, x)


def image():
    return torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def agree(packed, function, exact=True):
    """Assert the trained network's bits, or its numbers; the names of the graph's operators."""
    net, x = settle(Calls(function)), image()
    traced, network = packed(net, x, exact=exact)
    expected = net(x.clone())
    for _ in range(2):  # the second call tries out other ways
        found = network(x.clone())
        assert torch.equal(found, expected) if exact else torch.allclose(found, expected, atol=1e-5)
    return names(traced)


@pytest.mark.parametrize("curve", [F.gelu, F.silu, F.hardswish])
@pytest.mark.parametrize("exact", [True, False])
def test_a_curve_that_is_the_shortcut_of_another_layer_is_not_its_signs(packed, curve, exact):
    found = agree(packed, lambda net, x: net.b(x) + curve(net.a(x)), exact)
    assert found.count("rebnn.binary_conv2d") == 2 and any(curve.__name__ in name for name in found)


CLAMPS = {
    "a size of the input": lambda y, x: y.clamp(0, x.shape[-1]),
    "in the wrong order": lambda y, x: y.clamp(3.0, 1.0),
    "not a number": lambda y, x: y.clamp(min=float("nan")),
}


@pytest.mark.parametrize("limits", CLAMPS)
@pytest.mark.parametrize("behind", ["a 1-bit layer", "a real-valued layer", "both"])
def test_limits_that_are_no_numbers_in_order_stay_a_clamp(packed, limits, behind):
    clamp = CLAMPS[limits]
    functions = {
        "a 1-bit layer": lambda net, x: clamp(net.a(x), x).nan_to_num(),
        "a real-valued layer": lambda net, x: net.a(x) + clamp(net.real(x), x).nan_to_num(),
        "both": lambda net, x: net.a(clamp(net.real(x), x)),
    }
    assert "aten.clamp.default" in agree(packed, functions[behind])


def test_a_product_with_itself_is_scaled_once(packed):
    def squares(net, x):
        rows = net.linear(x[0].flatten(1).t()[:32])
        return (rows @ rows) / 8

    assert "aten.div.Tensor" in agree(packed, squares)


@pytest.mark.parametrize("draw", [torch.rand_like, torch.bernoulli, lambda x: F.dropout(x, 0.5, training=True)])
def test_random_numbers_are_no_constants(packed, draw):
    net = settle(Calls(lambda net, x: net.a(x) + draw(net.table.sigmoid())))
    with pytest.raises(UserError, match="which is not among the .* operators that a file's graph may call"):
        packed(net, image())


def test_a_network_that_writes_into_its_input_leaves_that_of_its_graph_alone(packed):
    net, x = settle(Calls(lambda net, x: net.a(F.relu_(x)) + x)), image()
    before = x.clone()
    network = packed(net, x)[1]
    assert torch.equal(network(x), net(before.clone())) and torch.equal(x, before)


def test_a_network_that_counts_its_calls_is_refused():
    def count(net, x):
        net.table += 1
        return net.a(x) + net.table

    with pytest.raises(UserError, match="changes 'table', which it keeps for later calls, and a graph keeps nothing"):
        capture(settle(Calls(count)), [image()])


def test_keys_of_results_are_strings(packed):
    net = settle(Calls(lambda net, x: {0: net.a(x)}))
    with pytest.raises(UserError, match="a dict with the key 0, and files hold strings"):
        encode(packed(net, image())[0])
