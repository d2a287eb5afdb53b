import copy
import io
from dataclasses import replace

import pytest
import torch
from torch import nn

from rebnn_mm.deploy.layers import operators as ours
from rebnn_mm.deploy.layers.modules import PackedConv2d
from rebnn_mm.deploy.layers.operators import Conv2dPlan, LinearPlan, binary_conv2d, binary_linear
from rebnn_mm.deploy.layers.prepared import PlanCache
from rebnn_mm.deploy.operation.bits import to_bits
from rebnn_mm.deploy.operation.signs import to_signs
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Epilogue, InputSide

SHAPE = (8, 6, 3, 3)


def sides(seed=0, **changes):
    torch.manual_seed(seed)
    before = InputSide(torch.randn(6), (torch.randn(6), torch.randn(6)))
    steps = dict(bias=torch.randn(8), norm=(torch.randn(8), torch.randn(8)))
    steps |= {name: torch.randn(8) for name in ("before", "slope", "after")}
    for name in ("shift", "input_norm"):
        if name in changes:
            before = replace(before, **{name.removeprefix("input_"): changes.pop(name)})
    return before, Epilogue(**dict(alpha=torch.rand(8), **steps) | changes)


def conv_arguments(seed=0):
    return to_bits(torch.randn(SHAPE)), ConvSpec.of(SHAPE, (2, 1), 1), *sides(seed)


def linear_arguments(**steps):
    after = Epilogue(torch.rand(8), torch.randn(8), **steps)
    return to_bits(torch.randn(8, 6)), ConvSpec.linear(8, 6), InputSide(), after


class Layers(nn.Module):
    """Signs pass from the first convolution to the second, its floats to the end."""

    def __init__(self) -> None:
        super().__init__()
        bits, spec, before, after = conv_arguments()
        self.first = bits, spec, before, replace(after, sign=InputSide(torch.randn(8)))
        self.second = to_bits(torch.randn(6, 8, 1, 1)), ConvSpec((6, 8, 1, 1)), InputSide(), Epilogue(torch.rand(6))
        self.linear = linear_arguments(clamp=(0.0, float("inf")))

    def forward(self, x, residual):
        y, signs = binary_conv2d(x, *self.first, residual=residual)
        z = binary_conv2d(signs, *self.second)
        return y, binary_linear(z.mean(dim=(2, 3)), *self.linear)


def tensors_of(before, after):
    tensors = ours.tensors_of(before, after)
    return list(tensors.values()), " ".join(tensors)


def inputs(n=2, h=9, w=7):
    return torch.randn(n, 6, h, w), torch.randn(n, 8, (h + 1) // 2, w)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("minimal", [False, True])
def test_opcheck(channels_last, minimal):
    x, residual = inputs()
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    bits, spec, before, after = conv_arguments()
    arguments = (x, bits, spec.ints(), *tensors_of(before, after), residual, [-1.0, 2.0], True)
    if minimal:
        arguments = (x, bits, spec.ints(), *tensors_of(InputSide(), Epilogue(after.alpha)))
    operators = torch.ops.rebnn_mm
    torch.library.opcheck(operators.binary_conv2d.default, arguments)
    torch.library.opcheck(operators.binary_conv2d.default, arguments, dict(signs=True))
    torch.library.opcheck(operators.binary_conv2d_both.default, arguments)


def test_opcheck_packed_signs():
    bits, spec, _, after = conv_arguments()
    x = to_signs(inputs()[0])
    arguments = (x, bits, spec.ints(), *tensors_of(InputSide(), after))
    torch.library.opcheck(torch.ops.rebnn_mm.binary_conv2d.default, arguments)


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6)])
def test_opcheck_linear(shape):
    bits, spec, before, after = linear_arguments()
    arguments = (torch.randn(shape), bits, spec.ints(), *tensors_of(before, after))
    torch.library.opcheck(torch.ops.rebnn_mm.binary_linear.default, arguments)
    torch.library.opcheck(torch.ops.rebnn_mm.binary_linear_both.default, arguments)


def test_operator_and_plan_agree():
    arguments = conv_arguments()
    x, residual = inputs()
    plan = Conv2dPlan(*arguments)
    expected = binary_conv2d(x, *arguments, residual=residual)
    assert torch.equal(plan(x, residual), expected)
    assert torch.equal(copy.deepcopy(plan)(x, residual), expected)


def same(actual, expected):
    return all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_sees_one_graph(backend):
    model, arguments = Layers(), inputs()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    assert same(compiled(*arguments), model(*arguments))
    other = inputs(n=3, h=12, w=8)
    assert same(compiled(*other), model(*other))


def test_export_with_dynamic_sizes():
    model, arguments = Layers(), inputs()
    n, h, w = (torch.export.Dim(name, min=2, max=64) for name in ("n", "h", "w"))
    shapes = ({0: n, 2: 2 * h + 1, 3: w}, {0: n, 2: h + 1, 3: w})
    program = torch.export.export(model, arguments, dynamic_shapes=shapes)
    assert "torch.ops.rebnn_mm.binary_conv2d.default" in program.graph_module.code
    other = inputs(n=3, h=11, w=8)
    assert same(program.module()(*other), model(*other))


def conv(x=None, residual=None, bits=None, shape=SHAPE, stride=(2, 1), padding=1, groups=1, **changes):
    bits = to_bits(torch.randn(SHAPE)) if bits is None else bits
    plan = Conv2dPlan(bits, ConvSpec.of(shape, stride, padding, 1, groups), *sides(**changes))
    return plan(torch.randn(1, 6, 5, 5) if x is None else x, residual)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        (dict(x=torch.randn(1, 6, 5, 5).double()), TypeError, r"input is torch.float64.*\.float\(\)"),
        (dict(x=torch.randn(1, 6, 5, 5, device="meta")), TypeError, "on meta"),
        (dict(x=torch.randn(1, 5, 5, 5)), ValueError, r"\(N, 6, H, W\), got \(1, 5, 5, 5\)"),
        (dict(x=torch.randn(6, 5, 5)), ValueError, r"\(N, 6, H, W\)"),
        (dict(x=torch.randn(1, 6, 0, 5)), ValueError, "no output pixel"),
        (dict(residual=torch.randn(1, 8, 5, 5)), ValueError, r"residual has the output's shape \(1, 8, 3, 5\)"),
        (dict(residual=torch.randn(1, 8, 3, 5).half()), TypeError, "residual is torch.float16"),
        (dict(alpha=torch.rand(7)), ValueError, "alpha has one element for each of 8"),
        (dict(shift=torch.rand(8)), ValueError, "the input shift has one element for each of 6"),
        (dict(input_norm=(torch.rand(6), torch.rand(8))), ValueError, "the input norm's offset has one element for"),
        (dict(bias=torch.rand(8).double()), TypeError, "bias is torch.float64"),
        (dict(norm=(torch.rand(8), None)), ValueError, "norm is a pair, scale and offset"),
        (dict(last_norm=(torch.rand(8),)), ValueError, "last_norm is a pair, scale and offset"),
        (dict(slope=torch.rand(2)), ValueError, "slope has one element for each of 8"),
        (dict(clamp=(1.0, 0.0)), ValueError, r"clamp=\(1.0, 0.0\): \(lowest, highest\)"),
        (dict(clamp=(float("nan"), 0.0)), ValueError, "lowest, highest"),
        (dict(floats=False), ValueError, "would return nothing"),
        (dict(sign=InputSide(torch.rand(6))), ValueError, "the sign shift has one element for each of 8"),
        (dict(x=torch.zeros(1, 5, 5, 2, dtype=torch.int32)), ValueError, r"signs are \(N, H, W, 1\)"),
        (dict(x=torch.zeros(1, 5, 5, 1, dtype=torch.int32)), ValueError, "shift or norm of its own"),
        (dict(x=torch.zeros(1, 5, 5, 1, dtype=torch.int32, device="meta")), TypeError, "on meta"),
        (dict(groups=3), ValueError, "groups=3 does not divide the 8"),
        (dict(stride=0), ValueError, "stride=0"),
        (dict(padding=(1, 2, 3)), ValueError, "padding=.*an integer or two"),
        (dict(shape=(8, 6, 3)), ValueError, "weight_shape=.8, 6, 3.: .C_out"),
        (dict(shape=(8, 6, 3, 2)), ValueError, "uint8 tensor of shape"),
        (dict(bits=torch.zeros(54)), ValueError, "got torch.float32"),
    ],
)
def test_errors_name_what_does_not_fit(changes, error, match):
    with pytest.raises(error, match=match):
        conv(**changes)


def test_linear_errors():
    plan = LinearPlan(*linear_arguments())
    with pytest.raises(ValueError, match=r"\(\.\.\., 6\), got \(2, 5\)"):
        plan(torch.randn(2, 5))
    with pytest.raises(ValueError, match=r"residual is \(2, 8\)"):
        plan(torch.randn(2, 6), torch.randn(2, 7))
    with pytest.raises(ValueError, match="a linear layer has"):
        LinearPlan(*conv_arguments())


def test_one_slope_serves_all_channels():
    bits, spec, before, after = conv_arguments()
    one = Conv2dPlan(bits, spec, before, replace(after, slope=after.slope[:1]))
    all_same = Conv2dPlan(bits, spec, before, replace(after, slope=after.slope[:1].expand(8)))
    x, _ = inputs()
    assert torch.equal(one(x), all_same(x))


@pytest.mark.parametrize(
    ("geometry", "names", "match"),
    [
        (None, "", "tensors are alpha and some of shift.*got none"),
        (None, "alpha before gamma", "alpha and some of shift.*got alpha, before, gamma"),
        (None, "bias", "got bias"),
        (None, "alpha offset", "scale and offset make one norm"),
        (None, "alpha sign_scale", "sign_scale and sign_offset make one norm"),
        ([1, 2], "alpha", "11 integers"),
    ],
)
def test_operators_say_what_is_missing(geometry, names, match):
    bits, spec, *_ = conv_arguments()
    tensors = [torch.rand(8) for _ in names.split()]
    with pytest.raises(ValueError, match=match):
        torch.ops.rebnn_mm.binary_conv2d(
            inputs()[0], bits, geometry or spec.ints(), tensors, names, signs="sign" in names
        )
    with pytest.raises(ValueError, match="tensors, but the names"):
        torch.ops.rebnn_mm.binary_conv2d(inputs()[0], bits, spec.ints(), tensors, names + " after")


@pytest.fixture
def prepared(monkeypatch):
    """One entry for each plan that the operators prepare, which begin with none."""
    calls, of_arguments = [], ours.sides_of

    def counted(*arguments):
        calls.append(1)
        return of_arguments(*arguments)

    monkeypatch.setattr(ours, "sides_of", counted)
    monkeypatch.setattr(ours, "_plans", PlanCache())
    return calls


@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@torch.no_grad()
def test_compiled_and_exported_models_prepare_once(prepared, backend):
    model, arguments = Layers(), inputs()
    compiled = torch.compile(model, backend=backend)
    program = torch.export.export(model, arguments).module()
    for run in (compiled, program):
        expected = run(*arguments)
        prepared.clear()
        for _ in range(3):
            assert same(run(*arguments), expected)
        assert not prepared


def test_a_plan_follows_what_is_written_into_its_tensors(prepared):
    bits, spec, before, after = conv_arguments()
    x, residual = inputs()
    for change in (lambda: after.slope.mul_(2), lambda: bits.bitwise_not_(), lambda: before.shift.fill_(0.5)):
        binary_conv2d(x, bits, spec, before, after, residual)
        change()
        actual = binary_conv2d(x, bits, spec, before, after, residual)
        assert torch.equal(actual, Conv2dPlan(bits, spec, before, after)(x, residual))
    assert len(prepared) == 4


def test_a_freed_weight_leaves_nothing_to_the_next_one(prepared):
    _, spec, before, after = conv_arguments()
    x, _ = inputs()
    for seed in range(20):  # freed memory and object ids are given out again
        bits = to_bits(torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)))
        assert torch.equal(binary_conv2d(x, bits, spec, before, after), Conv2dPlan(bits, spec, before, after)(x))
        assert len(ours._plans) == 1
        del bits
    assert len(ours._plans) == 0
    assert len(prepared) == 20


def test_kept_plans_are_bounded(prepared, monkeypatch):
    monkeypatch.setattr(PlanCache, "MOST", 4)
    _, spec, before, after = conv_arguments()
    weights = [to_bits(torch.randn(SHAPE)) for _ in range(5)]
    for bits in weights:
        binary_conv2d(inputs()[0], bits, spec, before, after)
    assert len(ours._plans) == 3


def test_one_weight_may_have_several_plans(prepared):
    bits, spec, before, after = conv_arguments()
    others = [after, replace(after, bias=None), replace(after, clamp=(0.0, 1.0)), replace(after, bias=torch.rand(8))]
    x, _ = inputs()
    for _ in range(3):
        for other in others:
            expected = Conv2dPlan(bits, spec, before, other)(x)
            assert torch.equal(binary_conv2d(x, bits, spec, before, other), expected)
    assert len(prepared) == len(others)


@torch.inference_mode()
def test_inference_tensors_are_right_but_not_kept(prepared):
    bits, spec, before, after = conv_arguments()
    x, _ = inputs()
    for _ in range(2):
        assert torch.equal(binary_conv2d(x, bits, spec, before, after), Conv2dPlan(bits, spec, before, after)(x))
        bits.bitwise_not_()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporter that is tried
def test_the_classic_onnx_export_refuses_the_operator():
    # it used to write the numbers of one input as constants
    pytest.importorskip("onnx", reason="optional: pip install rebnn_mm[onnx]")
    layer = PackedConv2d(to_bits(torch.randn(SHAPE)), ConvSpec(SHAPE), InputSide(), Epilogue(torch.rand(8))).eval()
    with pytest.raises(torch.onnx.errors.UnsupportedOperatorError, match="rebnn_mm::binary_conv2d"):
        torch.onnx.export(layer, (torch.randn(1, 6, 5, 5),), io.BytesIO(), dynamo=False)


def test_a_module_has_no_signs_to_return():
    for after in (Epilogue(torch.rand(8), sign=InputSide()), Epilogue(torch.rand(8), floats=False)):
        with pytest.raises(ValueError, match="returns floats and no signs"):
            PackedConv2d(to_bits(torch.randn(SHAPE)), ConvSpec(SHAPE), InputSide(), after)


def test_a_module_takes_every_step_of_an_epilogue():
    before, after = sides()
    after = replace(after, clamp=(-0.5, 1.0), last_norm=(torch.rand(8), torch.rand(8)), residual_last=True)
    arguments = to_bits(torch.randn(SHAPE)), ConvSpec.of(SHAPE, padding=1), before, after
    x, residual = torch.randn(2, 6, 5, 7), torch.randn(2, 8, 5, 7)
    assert torch.equal(PackedConv2d(*arguments)(x, residual), Conv2dPlan(*arguments)(x, residual))
