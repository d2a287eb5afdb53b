"""Real-valued layers as a prepared network computes them: torch's bits, whichever way they are computed."""

import copy
from functools import cache
from itertools import product

import pytest
import torch
from graph_toys import settle
from torch import nn

from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.lower import lower
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.passes import fuse
from rebnn_mm.deploy.graph.real import Tried
from rebnn_mm.deploy.graph.record import encode
from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.layers.depthwise import DepthwisePlan
from rebnn_mm.deploy.layers.plan import Conv2dPlan
from rebnn_mm.deploy.operation.bits import to_bits
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Epilogue, InputSide

WAYS = library.isas()


def stem(c_out=20, kernel=7, act=nn.ReLU):
    conv = nn.Conv2d(3, c_out, kernel, 2, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), act())


NETWORKS = {
    "stem with its pool": lambda: nn.Sequential(*stem(70), nn.MaxPool2d(3, 2, 1)),
    "stem of relu6": lambda: stem(16, 3, nn.ReLU6),
    "stem of hardswish": lambda: stem(24, 3, nn.Hardswish),
    "stem with a bias": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(3, 40, 1, bias=False), nn.BatchNorm2d(40), nn.ReLU6(),
        nn.Conv2d(40, 40, 3, 2, 1, groups=40, bias=False), nn.BatchNorm2d(40), nn.ReLU6(),
        nn.Conv2d(40, 40, 5, 1, 2, groups=40), nn.Conv2d(40, 40, 9, padding="same", groups=40), nn.GELU(),
        nn.Conv2d(40, 40, 3, 1, 2, dilation=2, groups=40, bias=False), nn.Hardtanh(-1, 2),
    ),
    "1x1": lambda: nn.Sequential(
        nn.Conv2d(3, 250, 3, padding=1), nn.Conv2d(250, 70, 1, bias=False), nn.BatchNorm2d(70), nn.ReLU(),
        nn.Conv2d(70, 400, 1, 2), nn.Conv2d(400, 30, 1), nn.BatchNorm2d(30), nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(30, 9, 1),
    ),
    "odd": lambda: nn.Sequential(
        nn.Conv2d(3, 8, (1, 3), (2, 1), (0, 1)), nn.Conv2d(8, 12, 3, groups=4), nn.Conv2d(12, 24, 3, groups=12),
        nn.Conv2d(24, 6, 1, padding=1), nn.Conv2d(6, 6, 3, dilation=2),
    ),
}  # fmt: skip


@cache  # of all instruction sets: the capture takes longer than the rest
def captured(name):
    """(network, its record, its tensors)."""
    torch.manual_seed(0)
    network = settle(NETWORKS[name]())
    traced = fuse(capture(lower(copy.deepcopy(network)), [torch.randn(2, 3, 64, 64)]))
    return network, encode(traced), traced.tensors


@pytest.mark.slow
@pytest.mark.parametrize("isa", WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_bits_are_torchs_in_every_call(threads, name, isa):
    network, record, tensors = captured(name)
    torch.manual_seed(1)
    with library.use_isa(isa), torch.no_grad():
        graph, loose = (GraphNetwork(record, tensors, exact) for exact in (True, False))
        for count, shape in product((1, 2), ((1, 3, 40, 40), (2, 3, 35, 26))):
            threads(count)
            graph(torch.zeros(shape))  # must not decide anything
            for _ in range(3):
                x = torch.randn(shape)
                expected = network(x)
                for given in (x, x.contiguous(memory_format=torch.channels_last)):
                    assert torch.equal(graph(given), expected)
            assert torch.allclose(loose(x), expected, rtol=1e-4, atol=1e-4)
        assert graph(torch.randn(0, 3, 64, 64)).shape[0] == 0


@pytest.mark.skipif(WAYS[0] in ("generic", library.PURE_TORCH), reason="needs vector instructions")
def test_kernels_are_chosen(packed, threads):
    network = settle(NETWORKS["depthwise"]())
    graph = packed(network, torch.randn(2, 3, 64, 64))[1]
    for _ in range(3):
        graph(torch.randn(1, 3, 64, 64))
    tried = [step.function for step in graph._program()._steps if isinstance(step.function, Tried)]
    chosen = [type(way).__name__ for step in tried for way in step._chosen.values()]
    assert chosen.count("DepthwisePlan") >= 2 and "RealConv2dPlan" in chosen


@pytest.mark.skipif(WAYS[0] in ("generic", library.PURE_TORCH), reason="needs vector instructions")
def test_a_depthwise_kernel_starts_from_the_bias_as_onednn_does(packed, threads):
    """Of ConvMixer's shape. The sum that ends with the bias has other last digits, and would not be chosen."""
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 9, padding="same", groups=64)
    network = settle(nn.Sequential(nn.Conv2d(3, 64, 1), nn.GELU(), conv, nn.BatchNorm2d(64), nn.GELU()))
    conv.bias.data.mul_(100)
    graph = packed(network, torch.randn(2, 3, 16, 16))[1]
    x = torch.randn(1, 3, 16, 16)
    assert all(torch.equal(graph(x), network(x)) for _ in range(3))
    tried = [step.function for step in graph._program()._steps if isinstance(step.function, Tried)]
    (way,) = [way for step in tried for way in step._chosen.values() if isinstance(way, DepthwisePlan)]
    assert way._start is not None and not torch.equal(way._steps.scale, torch.ones(64))  # the norm is in the same pass


def test_what_is_tried():
    def wrong(x):
        return x + 1

    def right(x):
        calls.append("right")
        return x * 2

    calls = []
    tried = Tried(lambda x: x + x, [wrong, right])
    x = torch.randn(Tried.ENOUGH)  # fewer are tried on noise as well
    assert torch.equal(tried(x), 2 * x) and not calls  # a shape that comes once
    assert torch.equal(tried(torch.zeros_like(x)), torch.zeros_like(x)) and not calls  # zeros decide nothing
    for times in (1, 2):
        assert torch.equal(tried(x), 2 * x) and len(calls) == times
    only = Tried(lambda x: x + x, [wrong])
    assert all(torch.equal(only(x), 2 * x) for _ in range(4))


def test_a_result_of_few_values_is_tried_on_noise():
    """Two of three values agree: a result of one value agrees by chance."""

    def often(x):
        return x.sum() + (x.sum() > 0.5) * 1e-3

    tried = Tried(lambda x: x.sum(), [often])
    x = torch.tensor([1.0, -2.0])
    assert all(torch.equal(tried(x), x.sum()) for _ in range(3))
    positive = torch.tensor([1.0, 2.0])
    assert torch.equal(tried(positive), positive.sum())


def test_a_bounded_number_of_shapes_is_remembered():
    tried = Tried(torch.neg, [torch.neg])
    for size in range(5, 5 + 3 * Tried.REMEMBERED):
        for _ in range(3):
            tried(torch.randn(size))
    assert len(tried._chosen) <= Tried.REMEMBERED


def test_a_plan_for_a_shape_again(threads):
    weight = torch.randn(40, 40, 3, 3)
    plan = Conv2dPlan(to_bits(weight), ConvSpec.of(weight.shape, padding=1), InputSide(), Epilogue(torch.rand(40)))
    x, rest = torch.randn(2, 40, 6, 5), torch.randn(2, 40, 6, 5)
    expected, added = plan(x), plan(x, rest)
    for _ in range(2):
        assert torch.equal(plan(x), expected) and torch.equal(plan(x, rest), added)
        assert torch.equal(plan(x.contiguous(memory_format=torch.channels_last), rest), added)
        assert torch.equal(plan(torch._neg_view(-x), torch._neg_view(-rest)), added)
        assert torch.equal(plan(x.transpose(2, 3).contiguous().transpose(2, 3), rest), added)
        with pytest.raises(TypeError, match="float64"):
            plan(x.double())
        with pytest.raises(TypeError, match="float64"):
            plan(x, rest.double())
        with pytest.raises(ValueError, match="output's shape"):
            plan(x, rest[:1])
    for size in range(3, 60):
        plan(torch.randn(1, 40, size, 3))
    assert torch.equal(plan(x, rest), added)
