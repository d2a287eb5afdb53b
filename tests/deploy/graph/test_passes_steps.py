"""Signs behind norms and clamps, decided by one number a channel: DenseNet's order of layers."""

import pytest
import torch
from graph_toys import names, settle
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rebnn_mm.deploy.graph.passes.steps import threshold
from rebnn_mm.deploy.operation.reference import fma
from rebnn_mm.layers import ChannelShift, ReBNNConv2d

CONV = "rebnn.binary_conv2d"


class Dense(nn.Module):
    """``cat(x, conv(act(norm(x))))``, twice."""

    def __init__(self, act, **options):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in (8, 12))
        self.convs = nn.ModuleList(ReBNNConv2d(channels, 4, 1, **options) for channels in (8, 12))
        self.act = act

    def forward(self, x):
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat((x, conv(self.act(norm(x)))), 1)
        return x


def image(channels=8):
    return torch.randn(2, channels, 7, 9, generator=torch.Generator().manual_seed(3))


@pytest.mark.slow
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("input_norm", [False, True])
@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 0.7), nn.Identity()], ids=str)
def test_norms_and_clamps_in_front_of_a_sign_go(packed, act, input_norm, shift):
    torch.manual_seed(0)
    module = Dense(act, input_norm=input_norm)
    if shift:
        module.convs = nn.ModuleList(
            nn.Sequential(ChannelShift(len(n.weight)), c) for n, c in zip(module.norms, module.convs, strict=True)
        )
    settle(module)
    traced, network = packed(module, image())
    assert names(traced) == [CONV, "aten.cat.default", CONV, "aten.cat.default"]
    with torch.no_grad():
        for x in (image(), 1e4 * image(), torch.zeros(1, 8, 3, 3)):
            assert torch.equal(network(x), module(x))


class Read(nn.Module):
    """What the sign is taken of has another reader."""

    def __init__(self, where):
        super().__init__()
        self.norm, self.where = nn.BatchNorm2d(8), where
        self.first, self.second = (ReBNNConv2d(8, 8, 1, input_norm=True) for _ in range(2))

    def forward(self, x):
        y = self.norm(x)
        z = y.relu()
        if self.where == "two units":
            return self.first(z) + self.second(z)
        return self.first(z) * (y if self.where == "norm" else z)


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("two units", [CONV, CONV]),
        ("norm", ["rebnn.affine", CONV, "aten.mul.Tensor"]),
        ("clamp", ["rebnn.affine", "aten.relu.default", CONV, "aten.mul.Tensor"]),
    ],
)
def test_what_others_read_stays(packed, where, left):
    torch.manual_seed(0)
    module = settle(Read(where))
    traced, network = packed(module, image())
    assert names(traced) == left
    with torch.no_grad():
        assert torch.equal(network(image()), module(image()))


@given(seed=st.integers(0, 999), steps=st.integers(1, 4), size=st.sampled_from((1e-30, 1e-3, 1.0, 1e6, 1e30)))
@settings(deadline=None, max_examples=60)
def test_the_number_is_the_one_where_the_sign_turns(seed, steps, size):
    generator = torch.Generator().manual_seed(seed)

    def vector(scale=1.0):
        return scale * torch.randn(16, generator=generator)

    def step(index):
        if index % 2:
            low = float(vector().min())
            return lambda x: x.clamp(low, low + 1)
        scale, offset = vector(), vector(size)
        scale[0] = 0.0
        return lambda x: fma(x, scale, offset)

    chain = [step(index) for index in range(steps)]
    scale, offset = threshold(16, chain)
    at = torch.where(scale == 0, torch.zeros(16), -offset / torch.where(scale == 0, torch.ones(16), scale))
    near = [
        at,
        at.nextafter(torch.tensor(torch.inf)),
        at.nextafter(torch.tensor(-torch.inf)),
        -at,
        vector(),
        vector(size),
    ]
    for x in near:
        y = x
        for one in chain:
            y = one(y)
        assert torch.equal(fma(x, scale, offset) >= 0, y >= 0)
