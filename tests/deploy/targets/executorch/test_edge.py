"""The form of a graph that ExecuTorch takes whole: one test for each trap that it goes around; torch is enough."""

import pytest
import torch
from graph_toys import settle
from torch import nn

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.deploy.graph.functions import affine, max_pool_affine
from rebnn_mm.deploy.graph.unit import Unit
from rebnn_mm.deploy.targets.executorch.edge import outputs_of
from rebnn_mm.deploy.targets.executorch.operators import NEAREST, REAL, name_of
from rebnn_mm.errors import UserError
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear
from rebnn_mm.layers.attention import Attend

aten = torch.ops.aten


class Net(nn.Module):
    """A 1-bit convolution between what the test is about."""

    def __init__(self, before=None, after=None, c_in=8):
        super().__init__()
        self.before, self.after = before or nn.Identity(), after or nn.Identity()
        self.conv = ReBNNConv2d(c_in, 8, 3, padding=1)

    def forward(self, x):
        return self.after(self.conv(self.before(x)))


def calls(module):
    return [node.target for node in module.graph_module.graph.nodes if node.op == "call_function"]


def agree(edge, *made):
    """Build both forms and compare them; returns the operators of the edge form, in order."""
    network, module, inputs = edge(*made)
    with torch.no_grad():
        expected, found = network(*inputs), module(*inputs)
    for a, b in zip(*([y] if isinstance(y, torch.Tensor) else list(y) for y in (expected, found)), strict=True):
        assert a.shape == b.shape
        # a value near 0 may have turned its sign
        assert ((a - b).abs() > 1e-4 * a.abs().max()).float().mean() < 0.02
    return calls(module)


def test_weights_are_contiguous_and_norms_inside_convolutions(edge):
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    net = settle(Net(stem)).to(memory_format=torch.channels_last)
    found = agree(edge, net, torch.randn(1, 6, 8, 8))
    # the 1-bit layer's thresholds stand for the ReLU
    assert found == [aten.conv2d.default, torch.ops.rebnn_mm.binary_conv2d.default]
    _, module, _ = edge(net, torch.randn(1, 6, 8, 8))
    assert all(b.is_contiguous() for b in module.buffers())


def test_a_norm_behind_a_bias_and_one_behind_a_linear_layer_are_folded(edge):
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5), nn.BatchNorm1d(5)]
    found = agree(edge, settle(Net(nn.Conv2d(6, 8, 1), nn.Sequential(*head))), torch.randn(1, 6, 8, 8))
    assert affine not in found and aten.mul.Tensor not in found and found.count(aten.linear.default) == 1


def test_a_pool_in_front_of_its_norm_stands_behind_it_again(edge):
    torch.manual_seed(0)
    stem = [nn.Conv2d(6, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    found = agree(edge, settle(Net(nn.Sequential(*stem))), torch.randn(1, 6, 16, 16))
    assert max_pool_affine not in found
    assert found[:2] == [aten.conv2d.default, aten.max_pool2d.default]


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        (dict(scale_factor=2), True),
        (dict(size=(24, 8)), True),
        (dict(size=(8, 8)), True),
        (dict(size=(12, 9)), False),
        (dict(size=(4, 8)), False),
        (dict(scale_factor=2, mode="bilinear"), False),
    ],
)
def test_nearest_upsampling_by_whole_numbers_is_a_step_of_the_delegate(edge, options, taken):
    torch.manual_seed(0)
    net = settle(Net(nn.Conv2d(6, 8, 3, padding=1), nn.Upsample(**options)))
    found = agree(edge, net, torch.randn(1, 6, 8, 8))
    assert (NEAREST in found) == taken


def test_a_pool_of_single_pixels_is_a_convolution(edge):
    torch.manual_seed(0)
    x = torch.randn(1, 6, 8, 8)
    found = agree(edge, settle(Net(nn.Conv2d(6, 8, 3, padding=1), nn.MaxPool2d(1, 2))), x)
    assert found.count(aten.conv2d.default) == 2 and aten.max_pool2d.default not in found


class Scaled(nn.Module):
    """Multiplies by a whole number, as heads do by their stride."""

    def forward(self, x):
        return 16 * x + 1


def test_whole_numbers_beside_floats_become_floats(edge):
    torch.manual_seed(0)
    network = settle(Net(nn.Conv2d(6, 8, 3, padding=1), Scaled()))
    agree(edge, network, torch.randn(1, 6, 8, 8))
    _, module, _ = edge(network, torch.randn(1, 6, 8, 8))
    steps = [n for n in module.graph_module.graph.nodes if n.target in (aten.mul.Tensor, aten.add.Tensor)]
    assert [type(step.args[1]) for step in steps] == [float, float]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.ReLU6(), nn.SiLU()])
@pytest.mark.parametrize("pool", [False, True])
def test_a_stem_is_one_step_of_the_delegate(edge, bias, activation, pool):
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 8, 7, 2, 3, bias=bias), nn.BatchNorm2d(8), activation, nn.MaxPool2d(3, 2, 1) if pool else None]
    net = settle(Net(nn.Sequential(*(part for part in stem if part))))
    found = agree(edge, net, torch.randn(1, 3, 30, 16))
    assert found[0] == REAL and aten.conv2d.default not in found
    _, module, _ = edge(net, torch.randn(1, 3, 30, 16))
    first = next(node for node in module.graph_module.graph.nodes if node.target == REAL)
    joined = pool and not bias and not isinstance(activation, (nn.ReLU6, nn.SiLU))
    assert name_of(first) == f"real-valued convolution 7x7, 3 -> 8 channels{', max-pool' if joined else ''}"
    assert len(found) == {True: 2, False: 2 + pool + isinstance(activation, nn.SiLU)}[joined]


@pytest.mark.parametrize(
    "conv",
    [nn.Conv2d(3, 8, 3, (1, 2)), nn.Conv2d(3, 8, 3, dilation=2), nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(5, 8, 3)],
)
def test_other_convolutions_are_left_to_xnnpack(edge, conv):
    torch.manual_seed(0)
    found = agree(edge, settle(Net(conv)), torch.randn(1, conv.in_channels, 9, 8))
    assert found[0] == aten.conv2d.default and REAL not in found


def test_a_convolution_of_one_channel_is_one_of_the_delegate(edge):
    """In ExecuTorch such a result has the memory order of NCHW, for XNNPACK that of NHWC: an FCOS stopped there."""
    torch.manual_seed(0)
    found = agree(edge, settle(Net(after=nn.Conv2d(8, 1, 3, padding=1))), torch.randn(1, 8, 6, 5))
    assert found[-1] == REAL


def test_a_gelu_by_tanh_is_spelled(edge):
    torch.manual_seed(0)
    net = settle(Net(after=nn.GELU(approximate="tanh")))
    network, module, inputs = edge(net, 3 * torch.randn(1, 8, 8, 8))
    with torch.no_grad():
        assert (network(*inputs) - module(*inputs)).abs().max() < 1e-6
    assert aten.gelu.default not in calls(module) and aten.tanh.default in calls(module)
    assert aten.gelu.default in agree(edge, settle(Net(after=nn.GELU())), torch.randn(1, 8, 8, 8))


def test_norms_and_slopes_that_no_layer_takes_up_are_sums_and_products(edge):
    torch.manual_seed(0)
    after = nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.PReLU(8))
    found = agree(edge, settle(Net(after=after)), torch.randn(1, 8, 8, 8))
    assert affine not in found and aten.prelu.default not in found
    assert found.count(aten.mul.Tensor) == 2 and aten.clamp.default in found


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2, 2, ceil_mode=True), nn.MaxPool2d(2, 2, ceil_mode=True)])
def test_pools_that_round_up_round_down_where_both_are_the_same(edge, pool):
    torch.manual_seed(0)
    net = settle(Net(after=pool))
    _, module, _ = edge(net, torch.randn(1, 8, 8, 8))
    (node,) = [n for n in module.graph_module.graph.nodes if "pool2d" in str(n.target)]
    assert True not in node.args
    agree(edge, net, torch.randn(1, 8, 8, 8))
    with pytest.raises(UserError, match=r"stride \[2, 2\] rounds up a feature map of 9x7.*multiples of 32"):
        edge(net, torch.randn(1, 8, 9, 7))


def test_a_dilated_pool_rounds_up_by_the_whole_width_of_its_window(edge):
    torch.manual_seed(0)
    net = settle(Net(after=nn.MaxPool2d(2, 2, dilation=2, ceil_mode=True)))  # windows of 3 pixels
    agree(edge, net, torch.randn(1, 8, 9, 7))
    with pytest.raises(UserError, match="rounds up a feature map of 8x8"):
        edge(net, torch.randn(1, 8, 8, 8))


@pytest.mark.parametrize("pool", ["adaptive", "mean", "mean of the last dimensions"])
def test_a_mean_over_the_pixels_keeps_its_dimensions(edge, pool):
    class Mean(nn.Module):
        def forward(self, x):
            if pool == "adaptive":
                return nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)
            return x.mean((2, 3) if pool == "mean" else (-1, -2))

    torch.manual_seed(0)
    _, module, _ = edge(settle(Net(after=Mean())), torch.randn(1, 8, 8, 8))
    (node,) = [n for n in module.graph_module.graph.nodes if n.target == aten.mean.dim]
    assert list(node.args[1]) == [2, 3] and node.args[2] is True
    agree(edge, settle(Net(after=Mean())), torch.randn(1, 8, 8, 8))


def test_no_layout_is_converted_and_no_size_computed(edge):
    class Turned(nn.Module):
        def forward(self, x):
            n, c, h, w = x.shape
            y = x.contiguous(memory_format=torch.channels_last).clone()
            return y.reshape(n, c, h * w).transpose(1, 2).contiguous().reshape(n, h * w * c)

    torch.manual_seed(0)
    found = agree(edge, settle(Net(after=Turned())), torch.randn(1, 8, 6, 8))
    names = " ".join(map(str, found))
    assert not any(word in names for word in ("contiguous", "clone", "sym_size", "operator", "to_last", "to_first"))


def test_each_operator_has_constants_of_its_own(edge):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = ReBNNConv2d(8, 8, 3, padding=1)

        def forward(self, x):
            return self.conv(x), self.conv(nn.functional.max_pool2d(x, 2))

    torch.manual_seed(0)
    _, module, _ = edge(Twice().eval(), torch.randn(1, 8, 8, 8))
    units = [Unit.of(n) for n in module.graph_module.graph.nodes if Unit.of(n)]
    assert len(units) == 2 and units[0].bits is not units[1].bits
    assert all(len(source.users) == 1 for unit in units for source in (unit.bits, *unit.tensors.values()))


def test_linear_layers_and_outputs_in_dicts(edge):
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc, self.out = nn.LayerNorm(16), ReBNNLinear(16, 32), nn.Linear(32, 3)

        def forward(self, x):
            y = self.fc(self.norm(x))
            return {"rows": y, "scores": [self.out(y)]}

    torch.manual_seed(0)
    network, module, inputs = edge(Rows().eval(), torch.randn(1, 5, 16))
    with torch.no_grad():
        expected, found = network(*inputs), module(*inputs)
    assert torch.equal(expected["rows"], found[0]) and torch.allclose(expected["scores"][0], found[1], atol=1e-5)
    (output,) = [n for n in module.graph_module.graph.nodes if n.op == "output"]
    assert len(outputs_of(output)) == 2


@pytest.mark.parametrize("affine_too", [True, False])
def test_group_norms_are_means(edge, affine_too):
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 8, affine=affine_too)
    if affine_too:
        norm.weight.data.normal_()
        norm.bias.data.normal_()
    found = agree(edge, settle(Net(after=norm)), torch.randn(1, 8, 6, 10))
    assert aten.group_norm.default not in found and found.count(aten.mean.dim) == 4


@pytest.mark.parametrize("mask", [None, "added", "chosen"])
def test_attention_is_products_of_matrices(edge, mask):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = ReBNNLinear(16, 48)
            self.register_buffer("mask", torch.randn(5, 5) if mask == "added" else torch.randn(5, 5) < 1)

        def forward(self, x):
            q, k, v = self.fc(x).reshape(x.shape[0], 5, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
            y = nn.functional.scaled_dot_product_attention(q, k, v, None if mask is None else self.mask)
            return y @ y.transpose(-1, -2)

    torch.manual_seed(0)
    found = agree(edge, Attention().eval(), torch.randn(1, 5, 16))
    assert aten.matmul.default not in found
    # a mask of truth values is left to ExecuTorch
    assert (aten.scaled_dot_product_attention.default in found) == (mask == "chosen")
    assert found.count(aten.bmm.default) == (1 if mask == "chosen" else 3)


class Bits(nn.Module):
    """Attention on bits between 1-bit layers."""

    def __init__(self, bias):
        super().__init__()
        self.qkv = nn.ModuleList(ReBNNLinear(32, 32, bias=bias) for _ in range(3))
        self.attend = Attend(2, scores="binary")

    def forward(self, x):
        return self.attend(*(layer(x) for layer in self.qkv))[0]


@pytest.mark.parametrize("bias", [True, False])
def test_attention_on_bits_compares_nothing(edge, bias):
    torch.manual_seed(0)
    network, module, (x,) = edge(Bits(bias).eval(), torch.randn(1, 6, 32))
    found = calls(module)
    assert aten.ge.Scalar not in found and aten.to.dtype not in found
    assert found.count(aten.clamp.default) == 1  # of the scores; the projections give signs by themselves
    with torch.no_grad():
        assert torch.equal(network(x), module(x))  # products of bits are integers: zeros are many, and count as +1


@pytest.mark.parametrize("kind", ["signs", "steps", "of a sum", "floats, too"])
def test_comparisons_are_exact_whoever_gives_the_values(edge, kind):
    class Compared(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = ReBNNLinear(32, 32)

        def forward(self, x):
            y = self.fc(x) + 0.5 * x if kind == "of a sum" else self.fc(x)
            step = (y >= 0).float()
            signs = step if kind == "steps" else step * 2 - 1
            return signs + y if kind == "floats, too" else signs

    torch.manual_seed(0)
    network, module, (x,) = edge(Compared().eval(), torch.randn(1, 6, 32))
    assert aten.ge.Scalar not in calls(module)
    assert (aten.clamp.default in calls(module)) == (kind in ("of a sum", "floats, too"))
    x[0, 0] = torch.tensor([0.0, -0.0, 1e-30, -1e-30] * 8)
    with torch.no_grad():
        assert torch.equal(network(x), module(x))


def test_other_comparisons_are_left_alone(edge):
    class Compared(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = ReBNNLinear(32, 32)

        def forward(self, x):
            y = self.fc(x)
            return (y >= 1).float(), (y >= 0).double()

    torch.manual_seed(0)
    _, module, _ = edge(Compared().eval(), torch.randn(1, 6, 32))
    assert calls(module).count(aten.ge.Scalar) == 2


@pytest.mark.slow
def test_a_whole_backbone_agrees_up_to_turned_signs(edge):
    torch.manual_seed(0)
    backbone = settle(ReBNNResNet(18, base_channels=8, out_indices=(1, 3)))
    found = agree(edge, backbone, torch.randn(1, 3, 64, 64))
    assert sum("binary_conv2d" in str(target) for target in found) == 16
    assert found.count(REAL) == 1
    assert not [t for t in found if t in (affine, max_pool_affine, aten.mul.Tensor)]
