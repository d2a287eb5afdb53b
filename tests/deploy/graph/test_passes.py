"""Each pass on the smallest network that needs it: what is left of the graph, and the trained network's bits."""

import pytest
import torch
from graph_toys import names, settle
from torch import nn

from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.functions import affine
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.passes import fuse
from rebnn_mm.deploy.graph.record import encode
from rebnn_mm.layers import ChannelShift, ReBNNConv2d, ReBNNLinear, RPReLU

CONV = "rebnn.binary_conv2d"


@pytest.fixture(autouse=True)
def no_gradients():
    """torch computes some real-valued operators in another order where a gradient is wanted."""
    with torch.no_grad():
        yield


class Residual(nn.Module):
    """``then(first(x) + shortcut(x))``."""

    def __init__(self, first, then, shortcut=None):
        super().__init__()
        self.first, self.then, self.shortcut = first, then, shortcut or nn.Identity()

    def forward(self, x):
        return self.then(self.first(x) + self.shortcut(x))


class Drops(nn.Module):
    """A dropout as some attentions call it, its rate 0 in evaluation."""

    def forward(self, x):
        return nn.functional.dropout(x, 0.0, training=True)


class Copies(nn.Module):
    """What pads nothing, and a copy."""

    def forward(self, x):
        return nn.functional.pad(x, (0, 0, 0, 0)).clone()


def conv(channels=8, **options):
    return ReBNNConv2d(channels, channels, 3, padding=1, **options)


def image(channels=8, size=7):
    return torch.randn(2, channels, size, size + 2, generator=torch.Generator().manual_seed(3))


ONE_CALL = {
    "alone": lambda: conv(bias=False),
    "bias": lambda: conv(bias=True),
    "input norm": lambda: conv(bias=True, input_norm=True),
    "shift": lambda: nn.Sequential(ChannelShift(8), conv()),
    "shift and input norm": lambda: nn.Sequential(ChannelShift(8), conv(input_norm=True)),
    "own batch norm in front": lambda: nn.Sequential(nn.BatchNorm2d(8), conv()),
    "norm": lambda: nn.Sequential(conv(bias=False), nn.BatchNorm2d(8)),
    "norm, ReLU": lambda: nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
    "norm, ReLU6": lambda: nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU6()),
    "hardtanh": lambda: nn.Sequential(conv(), nn.Hardtanh(-0.5, 2.0)),
    "PReLU a channel": lambda: nn.Sequential(conv(), nn.PReLU(8)),
    "one PReLU": lambda: nn.Sequential(conv(), nn.PReLU()),
    "leaky ReLU": lambda: nn.Sequential(conv(), nn.LeakyReLU(0.1)),
    "RPReLU": lambda: nn.Sequential(conv(), nn.BatchNorm2d(8), RPReLU(8)),
    "ReLU, norm": lambda: nn.Sequential(conv(), nn.ReLU(), nn.BatchNorm2d(8)),
    "shortcut, ReLU": lambda: Residual(nn.Sequential(conv(), nn.BatchNorm2d(8)), nn.ReLU()),
    "ReLU, shortcut": lambda: Residual(nn.Sequential(conv(), nn.ReLU()), nn.Identity()),
    "shortcut, norm": lambda: Residual(conv(), nn.BatchNorm2d(8)),
    "shortcut, RPReLU": lambda: Residual(nn.Sequential(ChannelShift(8), conv(), nn.BatchNorm2d(8)), RPReLU(8)),
    "the layer's own shortcut": lambda: nn.Sequential(conv(shortcut=True), nn.ReLU()),
    "dropout": lambda: nn.Sequential(conv(), nn.Dropout(), nn.ReLU()),
    "dropout in place": lambda: nn.Sequential(conv(), nn.Dropout(inplace=True), nn.ReLU()),
    "a padding of nothing, a copy": lambda: nn.Sequential(conv(), Copies(), nn.ReLU()),
    "dropout of rate 0 in training": lambda: nn.Sequential(conv(), Drops(), nn.ReLU()),
}


@pytest.mark.parametrize("what", ONE_CALL)
def test_one_call_for_a_layer_and_what_is_around_it(packed, what):
    module, x = settle(ONE_CALL[what]()), image()
    traced, network = packed(module, x)
    assert names(traced) == [CONV]
    assert torch.equal(network(x), module(x))


def test_a_norm_in_front_of_the_layers_own(packed):
    module, x = settle(nn.Sequential(nn.BatchNorm2d(8), conv(input_norm=True))), image()
    _, network = packed(module, x)
    assert torch.equal(network(x), module(x))


@pytest.mark.parametrize("front", [nn.BatchNorm2d, ChannelShift])
def test_a_graph_that_is_fused_again_computes_the_same(packed, front):
    module, x = settle(nn.Sequential(front(8), nn.BatchNorm2d(8), ChannelShift(8), conv(input_norm=True))), image()
    traced, _ = packed(module, x)
    fuse(traced)
    assert torch.equal(GraphNetwork(encode(traced), traced.tensors)(x), module(x))


def test_reflected_padding_stays_in_front(packed):
    module, x = settle(conv(padding_mode="reflect")), image()
    traced, network = packed(module, x)
    assert names(traced) == ["aten.pad.default", CONV]
    assert torch.equal(network(x), module(x))


def test_a_result_with_several_readers_is_fused_into_none(packed):
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = conv(), nn.BatchNorm2d(8)

        def forward(self, x):
            y = self.conv(x)
            return torch.relu(y), self.norm(y)

    module, x = settle(Fork()), image()
    traced, network = packed(module, x)
    assert sorted(names(traced)) == ["aten.relu.default", "rebnn.affine", CONV]
    assert all(torch.equal(a, b) for a, b in zip(network(x), module(x), strict=True))


def test_a_shortcut_that_is_computed_later_moves_the_call(packed):
    other = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(8, 8, 1))
    module, x = settle(Residual(nn.Sequential(conv(), nn.BatchNorm2d(8)), nn.ReLU(), other)), image()
    traced, network = packed(module, x)
    assert names(traced)[-1] == CONV and len(names(traced)) == 3
    assert torch.equal(network(x), module(x))


def test_a_shortcut_that_is_broadcast_stays_outside(packed):
    module, x = settle(Residual(conv(), nn.ReLU(), nn.AdaptiveAvgPool2d(1))), image()
    traced, network = packed(module, x)
    assert names(traced)[-2:] == ["aten.add.Tensor", "aten.relu.default"]
    assert torch.equal(network(x), module(x))


def test_neighbours_pass_signs(packed):
    module = settle(nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU(), conv(input_norm=True), nn.BatchNorm2d(8)))
    traced, network = packed(module, image())
    assert names(traced) == [CONV, CONV]
    (last,) = [node for node in traced.graph.nodes if node.op == "output"][0].all_input_nodes
    assert last.args[0].args[8] is True  # the first call returns signs
    assert torch.equal(network(image()), module(image()))


def test_a_block_whose_result_is_a_shortcut_too_passes_floats(packed):
    def block():
        return Residual(nn.Sequential(ChannelShift(8), conv(), nn.BatchNorm2d(8)), RPReLU(8))

    module, x = settle(nn.Sequential(block(), block(), block())), image()
    traced, network = packed(module, x)
    assert names(traced) == [CONV] * 3
    assert torch.equal(network(x), module(x))


def test_the_pool_comes_before_norm_and_relu(packed):
    stem = [nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    module, x = settle(nn.Sequential(*stem)), image(3, 33)
    assert (module[1].weight < 0).any()
    traced, network = packed(module, x)
    assert names(traced) == ["aten.conv2d.default", "rebnn.max_pool_affine", "aten.relu.default"]
    assert torch.equal(network(x), module(x))
    again = fuse(capture(network, [x]))  # as the exporters of engines do with what a file holds
    assert "rebnn.max_pool_affine" in names(again) and "rebnn.affine" not in names(again)


@pytest.mark.parametrize("norm", [False, True, "layer"])
@pytest.mark.parametrize("shape", [(4, 16), (2, 5, 16), (2, 3, 5, 16)])
def test_linear_layers(packed, norm, shape):
    module = settle(nn.Sequential(ReBNNLinear(16, 24, input_norm=norm), nn.ReLU(), ReBNNLinear(24, 8)))
    if norm is True:
        module[0].input_norm.running_mean.normal_()
        module[0].input_norm.running_var.uniform_(0.5, 2)
    x = torch.randn(shape)
    traced, network = packed(module, x)
    assert names(traced).count("rebnn.binary_linear") == 2 and len(names(traced)) == 2 + (norm == "layer")
    assert torch.equal(network(x), module(x))


def test_a_batch_norm_behind_a_linear_layer_on_rows_is_fused_and_on_sequences_is_not(packed):
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = ReBNNLinear(16, 8), nn.BatchNorm1d(5)

        def forward(self, x):
            return self.norm(self.linear(x))  # (N, L, C): the norm is of positions

    rows = settle(nn.Sequential(ReBNNLinear(16, 8), nn.BatchNorm1d(8)))
    assert names(packed(rows, torch.randn(4, 16))[0]) == ["rebnn.binary_linear"]
    module, x = settle(Sequence()), torch.randn(2, 5, 16)
    traced, network = packed(module, x)
    assert names(traced) == ["rebnn.binary_linear", "rebnn.affine"]
    assert torch.equal(network(x), module(x))


def test_what_is_computed_twice_is_computed_once(packed):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k = (ReBNNLinear(16, 16, input_norm="layer") for _ in range(2))

        def forward(self, x):
            return self.q(x) @ self.k(x).transpose(1, 2)

    module, x = settle(Twice()), torch.randn(2, 5, 16)
    traced, network = packed(module, x)
    assert names(traced).count("aten.layer_norm.default") == 1
    assert torch.equal(network(x), module(x))


def test_writing_in_place_is_made_functional(packed):
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv()

        def forward(self, x):
            y = self.conv(x).add_(1)
            y[:, :, :2] += 1  # into a view
            return y.relu_() * y

    module, x = settle(Windows()), image()
    assert torch.equal(packed(module, x)[1](x), module(x))


def _write_a_chunk(y):
    y.chunk(2, 1)[0].mul_(3)
    return y


def _write_a_part(y):
    y.split([2, 6], 1)[1].relu_()
    return y


def _write_rows(y):
    for row in y.unbind(1)[:2]:
        row.add_(1)
    return y


def _write_behind_dropout(y):
    nn.functional.dropout(y, 0.5, training=False).mul_(2)
    return y


def _write_a_cast(y):
    y.type_as(y).add_(1)
    return y


@pytest.mark.parametrize("write", [_write_a_chunk, _write_a_part, _write_rows, _write_behind_dropout, _write_a_cast])
def test_who_reads_the_whole_tensor_sees_what_was_written_into_a_part(packed, write):
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv()

        def forward(self, x):
            return write(self.conv(x))

    module, x = settle(Writes()), image()
    assert torch.equal(packed(module, x)[1](x), module(x))


@pytest.mark.parametrize("write", ["gt_", "logical_not_", "add_"])
def test_what_is_written_in_place_keeps_its_type(packed, write):
    class Model(nn.Module):
        def forward(self, x):
            y = x * 1.0
            getattr(y, write)(*{"gt_": (0.1,), "add_": (torch.ones((), dtype=torch.float64),)}.get(write, ()))
            return y, y * 2

    x = torch.randn(2, 4)
    for wanted, found in zip(Model()(x), packed(Model(), x)[1](x), strict=True):
        assert torch.equal(wanted, found) and wanted.dtype == found.dtype == torch.float32


@pytest.mark.parametrize("exact", [True, False])
def test_norms_of_what_is_not_dense_in_memory_round_as_torch_does(packed, exact):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.norm = settle(nn.BatchNorm1d(16)), settle(nn.BatchNorm2d(8))

        def forward(self, x, maps):
            return self.flat(x.transpose(1, 2)), self.norm(maps.chunk(2, 1)[0]), self.norm(maps[:, 8:, ::2])

    model = Model().eval()
    inputs = torch.randn(3, 40, 16), torch.randn(3, 16, 12, 12)
    wanted, found = model(*inputs), packed(model, *inputs, exact=exact)[1](*inputs)
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_memory_layouts_are_the_trained_networks(packed):
    class Channels(nn.Module):
        """Norm on the last axis, as ConvNeXt has it: what follows is computed in channels-last memory when trained."""

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1, groups=16)
            self.norm, self.linear = nn.LayerNorm(16), ReBNNLinear(16, 16)

        def forward(self, x):
            x = self.first(x)
            y = self.linear(self.norm(self.second(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
            return self.second(y + 0.1) + x

    module, x = settle(Channels()), image(3, 20)
    assert torch.equal(packed(module, x)[1](x), module(x))


def test_inexact_networks_fold_norms_into_real_valued_convolutions(packed):
    module = settle(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Hardswish(), conv()))
    x = image(3, 20)
    network = packed(module, x, exact=False)[1]
    assert not [node for node in network.arranged().graph.nodes if node.target is affine]
    assert (network(x) - module(x)).abs().mean() < 1e-3 * module(x).abs().mean()
