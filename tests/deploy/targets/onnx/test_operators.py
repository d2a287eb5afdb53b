"""Each operator of the ONNX export against torch, through onnxruntime."""

import operator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

onnx = pytest.importorskip("onnx", reason="optional: pip install rebnn_mm[onnx]")
runtime = pytest.importorskip("onnxruntime")

from graph_toys import settle  # noqa: E402
from onnx_toys import Linears, ShortcutLast, Units, packed_operators, tensors  # noqa: E402

from rebnn_mm.deploy.graph.capture import capture  # noqa: E402
from rebnn_mm.deploy.graph.lower import lower  # noqa: E402
from rebnn_mm.deploy.graph.network import GraphNetwork  # noqa: E402
from rebnn_mm.deploy.graph.passes import fuse  # noqa: E402
from rebnn_mm.deploy.graph.record import encode  # noqa: E402
from rebnn_mm.deploy.graph.unit import Unit  # noqa: E402
from rebnn_mm.deploy.operation.steps import TENSORS  # noqa: E402
from rebnn_mm.deploy.targets.onnx.export import to_onnx  # noqa: E402
from rebnn_mm.errors import UserError  # noqa: E402
from rebnn_mm.layers import ReBNNConv2d  # noqa: E402

pytestmark = pytest.mark.usefixtures("threads")


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def network(module, *inputs, any_size=None):
    """The graph of a module, as a file holds it."""
    traced = fuse(capture(lower(module), inputs, any_size))
    return GraphNetwork(encode(traced), traced.tensors)


def session(graph, form="float"):
    """The graph in onnxruntime."""
    model = to_onnx(graph, form)
    onnx.checker.check_model(model)
    return runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def agree(module, *inputs, others=(), any_size=None):
    """Assert that onnxruntime gives what torch gives, on the captured inputs and on ``others`` of another size."""
    settle(module)
    graph = network(module, *inputs, any_size=any_size)
    ready = session(graph)
    for given in (inputs, *others):
        found = ready.run(None, {spec.name: x.numpy() for spec, x in zip(ready.get_inputs(), given, strict=True)})
        expected = tensors(graph(*given))
        assert len(found) == len(expected)
        for own, wanted in zip(found, expected, strict=True):
            assert own.shape == tuple(wanted.shape) and own.dtype == wanted.numpy().dtype
            np.testing.assert_allclose(own, wanted.numpy(), rtol=1e-4, atol=1e-5)


def image(channels=4, height=12, width=10, n=2):
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(height))


ELEMENTWISE = {
    **{name: getattr(F, name) for name in ("relu", "relu6", "silu", "gelu", "hardswish", "hardsigmoid", "hardtanh")},
    **{name: getattr(F, name) for name in ("leaky_relu", "elu", "selu", "mish", "softplus", "tanh", "sigmoid")},
    **{name: getattr(torch, name) for name in ("abs", "exp", "floor", "ceil", "round", "sign", "sin", "square", "neg")},
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "softplus_beta": lambda x: F.softplus(x, beta=2),
    "clamp": lambda x: x.clamp(-0.5, 0.3) + x.clamp(min=0.1) + x.clamp(max=0.2) + x.clamp(min=0),
    "scalars": lambda x: 2 - (x * 3 + 1) / 4 - 0.5,
    "alpha": lambda x: torch.add(x, x.abs(), alpha=3) - torch.sub(x, 1, alpha=2),
    "powers": lambda x: x.pow(2) + x.abs().pow(0.5) + x.abs().add(1).rsqrt() + x.abs().log1p() + x.expm1(),
    "rounded quotients": lambda x: (x // 0.7) + torch.div(x, 0.3, rounding_mode="trunc") + x % 0.4,
    "where": lambda x: torch.where(x > 0, x, 0.0) + x.masked_fill(x < -0.5, 3.0) * (x != 0),
    "logic": lambda x: (torch.logical_and(x > 0, x < 1).bitwise_or(~(x >= -1))).to(torch.float32),
    "casts": lambda x: (x * 10).to(torch.int64) // 3 + (x * 10).int() % 4,
    "bits": lambda x: ((x * 10).long() & 3) + ((x * 10).long() | 4) + ((x > 0) & True),
    "integers and numbers": lambda x: (x * 3).long().clamp(-1.5, 2.5) + (x * 3).long() ** 2.0 + (x * 3).long() ** 2,
    "powers of a vector": lambda x: x.abs() ** torch.tensor([0.5, 1.0, 2.0, 3.0]).view(4, 1, 1),
    "extremes": lambda x: torch.maximum(x, x.flip(2)) + torch.minimum(x, x.flip(3)),
    "like": lambda x: torch.full_like(x, 2) + torch.zeros_like(x) + torch.ones_like(x) + x,
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name):
    agree(Function(ELEMENTWISE[name]), image(), others=[(image(height=7, n=1),)])


POOLS = {
    "max": nn.MaxPool2d(3, 2, 1),
    "max ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "max ceil padded": nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "max dilated": nn.MaxPool2d(2, 1, dilation=2),
    "avg": nn.AvgPool2d(2),
    "avg padded": nn.AvgPool2d(3, 2, 1),
    "avg not counting": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "avg ceil": nn.AvgPool2d(3, 2, ceil_mode=True),
    "avg ceil as in ResNets": nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
    "avg ceil padded": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "adaptive": nn.AdaptiveAvgPool2d(1),
    "adaptive to a size": nn.AdaptiveAvgPool2d((3, 7)),
    "adaptive in one direction": nn.AdaptiveAvgPool2d((None, 2)),
    "adaptive max": nn.AdaptiveMaxPool2d(1),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools(name):
    sizes = [(image(height=height, width=width, n=1),) for height, width in ((13, 11), (8, 9), (16, 15))]
    agree(POOLS[name], image(), others=sizes)


IMAGES = {
    "stem": lambda: nn.Sequential(nn.Conv2d(4, 6, 7, 2, 3, bias=False), nn.BatchNorm2d(6), nn.MaxPool2d(3, 2, 1)),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, groups=4, dilation=2, padding=(2, 1)),
    "same": lambda: nn.Conv2d(4, 4, 3, padding="same"),
    "batch norm": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)),
    "transposed": lambda: nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1),
    "prelu": lambda: nn.Sequential(nn.PReLU(4), nn.PReLU()),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "instance norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "gated": lambda: nn.GLU(1),
    "pad": lambda: nn.Sequential(nn.ZeroPad2d((1, 2, 3, 0)), nn.ReflectionPad2d(2), nn.ReplicationPad2d(1)),
    "circular": lambda: nn.CircularPad2d(2),
    "nearest": lambda: nn.Upsample(scale_factor=2),
    "to the other's size": lambda: Function(lambda x: F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:]) + x),
    "nearest, no whole factor": lambda: nn.Upsample(scale_factor=1.7),
    "bilinear": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    "corners": lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    "pixel shuffle": lambda: nn.PixelShuffle(2),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(name):
    agree(IMAGES[name](), image(), others=[(image(height=16, width=14, n=1),)])


@pytest.mark.parametrize("options", [dict(size=(2, 15)), dict(size=(28, 82)), dict(scale_factor=(3, 41))], ids=str)
def test_nearest_pixels_are_those_of_torch(options):
    """Where a new pixel begins at a whole place of the old ones, rounding decides between two of them."""
    agree(nn.Upsample(**options), image(height=14, width=25), others=[(image(height=26, width=2),)])


def shuffled(x):
    """ShuffleNet's: the sizes are computed from the input's."""
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


SHAPES = {
    "flatten": lambda x: x.flatten(2).flatten(0, 1),
    "reshape": lambda x: x.reshape(x.shape[0], -1, x.shape[2] * 2),
    "shuffle": shuffled,
    "sizes": lambda x: x.sum((2, 3)) / x.shape[2] + (x.shape[3] // 2) * (-x.shape[2] // 4),
    "unflatten": lambda x: x.unflatten(1, (2, 2)).sum(2),
    "order": lambda x: x.permute(0, 2, 3, 1).transpose(1, 2).movedim(3, 1).unsqueeze(1).squeeze(1),
    "parts": lambda x: x[:, 1:3, ::2, -4:] + x[:, :1, ::2, 2:6] * x[:, -1, ::2, 1:5].unsqueeze(1),
    "chunks": lambda x: torch.cat([x.chunk(2, 1)[1], *x.split([1, 3], 1), x.split(3, 1)[1]], 1),
    "stack": lambda x: torch.stack([x, x + 1], 1).flatten(1, 2).unbind(1)[2],
    "expand": lambda x: x[:, :1].expand(-1, 4, -1, -1) + x[:, :, :1, :1].expand_as(x) + x.repeat(1, 1, 1, 1),
    "repeat": lambda x: x.repeat(1, 2, 1, 1).tile(2),
    "flip": lambda x: x.flip(1, 3),
    "index": lambda x: x[:, torch.tensor([2, 0])] + x.index_select(1, torch.tensor([1, 3])),
    "arange": lambda x: x + torch.arange(x.shape[3]) + torch.zeros(x.shape[2], 1) + x.new_ones(x.shape[3]),
    "narrow": lambda x: x.narrow(3, -2, 2) + x.narrow(3, 1, 2) + x.narrow(3, -3, 2) + x.narrow(1, -4, 4)[..., :2],
    "masks": lambda x: x.tril() + x.triu(1),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    agree(Function(SHAPES[name]), image(), others=[(image(height=16, width=14, n=3),)])


@pytest.mark.parametrize("shifts", [(1, -2), (20, -31), (0, 7)])
def test_a_roll_which_fixes_the_size(shifts):
    agree(Function(lambda x: x.roll(shifts, (2, 3))), image(), others=[(image(n=3),)])


def test_a_softplus_that_is_a_line_too_soon_is_refused():
    with pytest.raises(UserError, match="cannot express aten.softplus.*it is a line from 1"):
        session(network(Function(lambda x: F.softplus(x, threshold=1)), image()))


REDUCTIONS = {
    "mean": lambda x: (x.mean((2, 3)), x.mean(1, keepdim=True), x.mean()),
    "sum": lambda x: (x.sum(-1), x.sum(), (x > 0).sum(1)),
    "extremes": lambda x: (x.amax((2, 3)), x.amin(1), x.max(), *x.max(1), *x.min(2, keepdim=True)),
    "places": lambda x: (x.argmax(1), x.argmin(-1, keepdim=True), *x.topk(2, dim=1)),
    "truth": lambda x: ((x > 0).any(1), (x > -2).all(2, keepdim=True)),
    "variance": lambda x: (x.var((2, 3)), x.std(1, unbiased=False)),
    "cumulative": lambda x: x.cumsum(2),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name):
    agree(Function(REDUCTIONS[name]), image(), others=[(image(height=7, width=9, n=1),)])


class Tokens(nn.Module):
    """Embedded tokens through a product of each kind."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(11, 8), nn.LayerNorm(8)
        self.bare, self.linear = nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 8)

    def forward(self, tokens, mask):
        x = self.norm(self.table(tokens))
        kept = mask[:, None, None].bool()
        q = self.linear(x).unflatten(2, (2, 4)).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, q, q, kept)
        y = y + F.scaled_dot_product_attention(q, q, q, is_causal=True, scale=0.3)
        y = y + (q @ q.transpose(-1, -2)).masked_fill(~kept, -1e9).softmax(-1) @ q
        y = y.transpose(1, 2).flatten(2)
        return {"last": self.bare(x + y), "pooled": torch.log_softmax(y[:, 0], -1)}


def test_tokens_of_any_length():
    def batch(n, length):
        tokens = torch.arange(n * length).view(n, length) % 11
        return tokens, (torch.arange(length) < length - 2).long().expand(n, length)

    agree(Tokens(), *batch(2, 6), others=[batch(3, 9), batch(1, 4)])


class Together(nn.Module):
    """Any number of inputs behind the first."""

    def forward(self, x, *others):
        return [x + other for other in others]


def test_several_inputs():
    agree(Together(), image(), image(n=2), image(), others=[(image(n=1),) * 3])


PRODUCTS = {
    "linear": lambda: nn.Linear(6, 5),
    "no bias": lambda: nn.Linear(6, 5, bias=False),
    "gram": lambda: Function(lambda x: torch.bmm(x.unsqueeze(2), x.unsqueeze(1)) + x.unsqueeze(1)),
    "einsum": lambda: Function(lambda x: torch.einsum("ni,nj->nij", x, x)),
    "rms norm": lambda: nn.RMSNorm(6),
    "softmax": lambda: nn.Softmax(1),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name):
    agree(PRODUCTS[name](), torch.randn(3, 6), others=[(torch.randn(7, 6),)])


@pytest.mark.slow
def test_units():
    agree(ShortcutLast(), image(8))
    agree(Units(), image(8), others=[(image(8, 15, 9, n=1),)])
    agree(nn.Sequential(ReBNNConv2d(4, 5, 3, weight_only=True, bias=True)), image(), others=[(image(n=1),)])
    agree(Linears(), torch.randn(4, 9), others=[(torch.randn(1, 9),)])


@pytest.mark.parametrize(("make", "x"), [(Units, image(8)), (ShortcutLast, image(8)), (Linears, torch.randn(4, 9))])
def test_units_as_the_documented_operators(make, x):
    from onnx.reference import ReferenceEvaluator

    graph = network(settle(make()), x)
    model = to_onnx(graph, "packed")
    onnx.checker.check_model(model)
    [found] = ReferenceEvaluator(model, new_ops=packed_operators()).run(None, {"input": x.numpy()})
    np.testing.assert_allclose(found, graph(x).numpy(), rtol=1e-4, atol=1e-5)


def test_the_toys_have_every_step_of_a_unit():
    units = [Unit.of(node) for node in network(settle(Units()), image(8)).traced().graph.nodes if Unit.of(node)]
    assert {name for unit in units for name in unit.tensors} == set(TENSORS)
    assert {unit.signs for unit in units} == {unit.residual_last for unit in units} == {True, False}
    assert {unit.clamp for unit in units} >= {None, (0.0, float("inf")), (-1.0, 1.0)}


def test_signs_beside_floats():
    """A file may hold a unit that returns both, though none is written so."""
    first, second, x = ReBNNConv2d(4, 4, 1), ReBNNConv2d(4, 3, 1), image()
    traced = capture(lower(nn.Sequential(first, second)), [x])
    a, b = (node for node in traced.graph.nodes if Unit.of(node))
    shift = traced.add_constant("shift", torch.randn(4))
    with traced.graph.inserting_before(a):
        unit = replace(Unit.of(a).with_tensors(sign_shift=shift), signs=True)
        both = unit.call(traced.graph)
        floats, signs = (traced.graph.call_function(operator.getitem, (both, place)) for place in (0, 1))
    with traced.graph.inserting_before(b):
        reader = replace(Unit.of(b), x=signs).call(traced.graph)
    traced.graph.output_node().args = ((floats, reader),)
    traced.tidy()
    graph = GraphNetwork(encode(traced), traced.tensors)
    for found, wanted in zip(session(graph).run(None, {"input": x.numpy()}), graph(x), strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_a_size_that_is_no_multiple_of_eight():
    agree(nn.Sequential(ReBNNConv2d(3, 5, 3)), image(3))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Unfold(3), "does not know the operator aten.im2col.default"),
        (nn.AvgPool2d(3, divisor_override=2), "cannot express aten.avg_pool2d.default as .*divisor_override"),
        (Function(lambda x: x.round(decimals=1)), "cannot express aten.round.decimals as .*rounds to decimals"),
        (Function(lambda x: [{"a": x, "a_0": x + 1}, {"a": x + 2}]), "two outputs .* named 'a_0'"),
        (nn.AdaptiveMaxPool2d(3), "aten.adaptive_max_pool2d.default as .*output size 1"),
    ],
)
def test_what_onnx_cannot_say_is_refused_by_name(module, message):
    with pytest.raises(UserError, match=message):
        to_onnx(network(module, image()), "float")


def test_keys_that_stand_in_several_dicts_are_told_apart():
    levels = Function(lambda x: [{"cls": x + 1, "box": x + 2}, {"cls": x + 3, "box": x + 4}, {"all": x + 5}])
    agree(levels, image())
    names = [output.name for output in session(network(levels, image())).get_outputs()]
    assert names == ["cls_0", "box_0", "cls_1", "box_1", "all"]
    nested = Function(lambda x: {"p3": {"cls": x + 1}, "p4": {"cls": x + 2}})
    assert [output.name for output in session(network(nested, image())).get_outputs()] == ["cls_p3", "cls_p4"]
