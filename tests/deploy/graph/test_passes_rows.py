"""Passes that run when a network of linear layers is loaded: what is left to call, and the trained network's bits."""

import math

import pytest
import torch
from graph_toys import settle
from torch import nn

from rebnn_mm.deploy.graph.passes.thresholds import _Changes, _settled
from rebnn_mm.deploy.graph.unit import Unit
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear, RPReLU


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def calls(network):
    """1-bit operators and ATen's that the prepared network calls, by their short names."""
    graph = network.arranged().graph
    aten = [node for node in graph.nodes if Unit.of(node) or str(node.target).startswith("aten.")]
    return ["unit" if Unit.of(node) else str(node.target).split(".")[1] for node in aten]


def normed(module, seed=0):
    """Statistics of the norms in front of signs, different in every feature, and biases."""
    generator = torch.Generator().manual_seed(seed)
    for part in settle(module).modules():
        if getattr(part, "input_norm", None) is not None and hasattr(part.input_norm, "running_mean"):
            part.input_norm.running_mean.normal_(0.1, 0.4, generator=generator)
            part.input_norm.running_var.uniform_(0.1, 2, generator=generator)
    return module


def rows(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


ACTIVATIONS = {
    "GELU": nn.GELU(),
    "GELU by tanh": nn.GELU("tanh"),
    "SiLU": nn.SiLU(),
    "Hardswish": nn.Hardswish(),
    "Mish": nn.Mish(),
    "ELU": nn.ELU(),
    "sigmoid": nn.Sigmoid(),
    "GELU, tanh": nn.Sequential(nn.GELU(), nn.Tanh()),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("input_norm", [True, False])
def test_an_activation_between_linear_layers_is_a_threshold(packed, name, input_norm):
    layers = ReBNNLinear(48, 64, bias=True, input_norm=True), ReBNNLinear(64, 32, input_norm=input_norm)
    module = normed(nn.Sequential(layers[0], ACTIVATIONS[name], layers[1]))
    x = rows(3, 70, 48)
    network = packed(module, x)[1]
    assert calls(network) == ["unit", "unit"]
    assert torch.equal(network(x), module(x))


@pytest.mark.parametrize("padding", [0, 1])
def test_an_activation_between_convolutions_is_a_threshold(packed, padding):
    first = ReBNNConv2d(8, 32, 3, padding=padding, groups=2)
    module = normed(nn.Sequential(first, nn.BatchNorm2d(32), nn.SiLU(), ReBNNConv2d(32, 8, 3, input_norm=True)))
    x = rows(2, 8, 9, 10)
    network = packed(module, x)[1]
    assert calls(network) == ["unit", "unit"]
    assert torch.equal(network(x), module(x))


def test_steps_of_the_first_layer_are_in_the_threshold(packed):
    first = nn.Sequential(ReBNNConv2d(8, 32, 1), nn.BatchNorm2d(32), RPReLU(32))
    module = normed(nn.Sequential(first, nn.Hardswish(), ReBNNConv2d(32, 8, 1, input_norm=True)))
    x = rows(2, 8, 9, 10)
    network = packed(module, x)[1]
    assert torch.equal(network(x), module(x))


class Between(nn.Module):
    """``last(gelu(first(x)), ...)`` with another reader or a sum in between."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.first, self.last = ReBNNLinear(64, 64, input_norm=True), ReBNNLinear(64, 64, input_norm=True)

    def forward(self, x):
        y = self.first(x)
        y = y + x if self.kind == "a sum in front" else y
        z = nn.functional.gelu(y)
        y = self.last(z)
        return y if self.kind == "a sum in front" else y + z


@pytest.mark.parametrize("kind", ["a sum in front", "a shortcut behind"])
def test_what_needs_the_floats_keeps_them(packed, kind):
    module, x = normed(Between(kind)), rows(5, 64)
    network = packed(module, x)[1]
    assert "gelu" in calls(network)
    assert torch.equal(network(x), module(x))


def test_channels_that_fill_no_vector_are_left_where_bits_count(packed):
    module = normed(nn.Sequential(ReBNNLinear(48, 40), nn.GELU(), ReBNNLinear(40, 32, input_norm=True)))
    x = rows(5, 48)
    network = packed(module, x)[1]
    assert calls(network) == ["unit", "gelu", "unit"] and torch.equal(network(x), module(x))
    assert calls(packed(module, x, exact=False)[1]) == ["unit", "unit"]


def test_signs_that_change_more_than_twice_have_no_threshold():
    counts = torch.arange(-3.0, 4.0)
    columns = ["0000000", "1111111", "0001111", "1110000", "1100011", "0011100"]
    positive = torch.tensor([[row == "1" for row in column] for column in columns]).T
    steps = _Changes.of(positive, counts).tensors()
    y = counts[:, None] + steps["before"]
    y = torch.where(y > 0, y, y * steps["slope"]) * steps["sign_scale"] + steps["sign_offset"]
    assert torch.equal(y >= 0, positive)
    assert "slope" not in _Changes.of(positive[:, :4], counts).tensors()
    wild = torch.tensor([[index % 2 == 1] for index in range(7)])
    assert _Changes.of(wild, counts) is None


def test_turns_between_values_near_0_are_left_out():
    values = torch.tensor([[-0.0, -1e-7, -0.0, -1e-7, -0.1, -1.0, 0.0, 1.0, 2.0]]).T
    noise = values.repeat(1, 3)
    noise[1, 1] = -0.5  # a turn that is none of rounding
    noise[:, 2] = -values.flip(0)[:, 0]  # the last turns are kept: nothing is left out here
    settled = _settled(noise, torch.ones_like(noise))
    assert settled[:, 0].tolist() == [True, True, True, False, False, False, True, True, True]
    assert torch.equal(settled[:, 1:], noise[:, 1:] >= 0)


def test_a_gelu_of_large_values_is_a_threshold_where_bits_may_change(packed):
    first = ReBNNLinear(256, 64, bias=True)
    module = normed(nn.Sequential(first, nn.GELU(), ReBNNLinear(64, 32)))
    first.alpha.data.copy_(torch.linspace(0.002, 0.05, 64).view_as(first.alpha))
    first.bias.data.fill_(-5.5)  # around where GELU is 0 and a negative number in turns
    x = rows(40, 256)
    exact, loose = (packed(module, x, exact=exact)[1] for exact in (True, False))
    assert calls(exact) == ["unit", "gelu", "unit"] and calls(loose) == ["unit", "unit"]
    assert torch.equal(exact(x), module(x))


class Attention(nn.Module):
    """Scaled products of three projections."""

    def __init__(self, width, heads, read=None):
        super().__init__()
        self.heads, self.read = heads, read
        self.q, self.k, self.v = (ReBNNLinear(width, width, bias=True, input_norm=True) for _ in range(3))

    def forward(self, x):
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        if self.read is not None:
            v = self.read(v)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def same_norms(module):
    """The projections have seen the same inputs."""
    normed(module)
    for part in (module.k, module.v):
        part.input_norm.load_state_dict(module.q.input_norm.state_dict())
    return module


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_projections_of_one_input_are_one_call(packed, heads, batch):
    module = same_norms(Attention(64, heads))
    network = packed(module, rows(2, 21, 64))[1]
    done = calls(network)
    assert done.count("unit") == 1 and ("div" in done) == (heads == 2)  # the root of 32 is no power of two
    x = rows(batch, 21, 64)
    assert torch.equal(network(x), module(x))


@pytest.mark.parametrize("why", ["other norms", "read by an activation", "rows of odd length"])
def test_projections_that_differ_stay_apart(packed, why):
    module = normed(Attention(64, 2)) if why == "other norms" else None
    if why == "read by an activation":
        module = same_norms(Attention(64, 2, nn.GELU()))
    if why == "rows of odd length":
        module = same_norms(Attention(24, 2))
    x = rows(2, 21, 24 if why == "rows of odd length" else 64)
    network = packed(module, x)[1]
    assert calls(network).count("unit") == (2 if why == "read by an activation" else 3)
    assert torch.equal(network(x), module(x))


def test_projections_whose_bits_end_within_a_byte_are_joined(packed):
    module = same_norms(Attention(64, 1))
    module.q, module.k = (ReBNNLinear(63, 16, input_norm=True) for _ in range(2))
    module.v = ReBNNLinear(63, 48, input_norm=True)
    module, x = same_norms(module), rows(2, 5, 63)
    network = packed(module, x)[1]
    assert calls(network).count("unit") == 1 and torch.equal(network(x), module(x))


def test_a_factor_that_is_no_power_of_two_or_meets_a_shortcut_stays(packed):
    class Scaled(nn.Module):
        def __init__(self, factor, shortcut):
            super().__init__()
            self.q, self.factor = ReBNNLinear(32, 32, shortcut=shortcut), factor

        def forward(self, x):
            return self.q(x) @ x.transpose(-1, -2) * self.factor

    x = rows(2, 9, 32)
    for factor, shortcut, stays in ((0.25, False, False), (3.0, False, True), (0.25, True, True), (-0.5, False, True)):
        module = settle(Scaled(factor, shortcut))
        network = packed(module, x)[1]
        assert ("mul" in calls(network)) == stays
        assert torch.equal(network(x), module(x))
