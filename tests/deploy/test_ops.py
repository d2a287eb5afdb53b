import copy
import io

import pytest
import torch
from torch import nn

from rebnn_mm.deploy.modules import ConvShape, PackedConv2d
from rebnn_mm.deploy.ops import Conv2dPlan, LinearPlan, binary_conv2d, binary_linear
from rebnn_mm.deploy.packing import pack_signs

SHAPE = (8, 6, 3, 3)


def conv_arguments(seed=0):
    torch.manual_seed(seed)
    vectors = {name: torch.randn(8) for name in ("bias", "scale", "offset")}
    norm, rprelu = (torch.randn(6), torch.randn(6)), (torch.randn(8), torch.randn(8), torch.randn(8))
    return dict(
        packed=pack_signs(torch.randn(SHAPE)), alpha=torch.rand(8), weight_shape=SHAPE, stride=(2, 1), padding=1,
        shift=torch.randn(6), input_norm=norm, rprelu=rprelu, **vectors,
    )  # fmt: skip


def linear_arguments():
    return dict(packed=pack_signs(torch.randn(8, 6)), alpha=torch.rand(8), weight_shape=(8, 6), bias=torch.randn(8))


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = conv_arguments(), linear_arguments()

    def forward(self, x, residual):
        y = binary_conv2d(x, residual=residual, **self.conv)
        return binary_linear(y.mean(dim=(2, 3))[:, :6], **self.linear)


def inputs(n=2, h=9, w=7):
    return torch.randn(n, 6, h, w), torch.randn(n, 8, (h + 1) // 2, w)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("minimal", [False, True])
def test_opcheck(channels_last, minimal):
    x, residual = inputs()
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    packed, alpha = pack_signs(torch.randn(SHAPE)), torch.rand(8)
    vectors = [None] * 10 if minimal else [*torch.randn(3, 6), *torch.randn(3, 8), residual, *torch.randn(3, 8)]
    arguments = (x, packed, alpha, list(SHAPE), [2, 1], [1, 1], [1, 1], 1, *vectors)
    torch.library.opcheck(torch.ops.rebnn_mm.binary_conv2d.default, arguments)


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6)])
def test_opcheck_linear(shape):
    arguments = (torch.randn(shape), pack_signs(torch.randn(8, 6)), torch.rand(8), [8, 6])
    torch.library.opcheck(torch.ops.rebnn_mm.binary_linear.default, arguments)


def test_operator_and_plan_agree():
    arguments = conv_arguments()
    x, residual = inputs()
    plan = Conv2dPlan(**arguments)
    expected = binary_conv2d(x, residual=residual, **arguments)
    assert torch.equal(plan(x, residual), expected)
    assert torch.equal(copy.deepcopy(plan)(x, residual), expected)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_sees_one_graph(backend):
    model, arguments = Layers(), inputs()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    assert torch.equal(compiled(*arguments), model(*arguments))
    other = inputs(n=3, h=12, w=8)
    assert torch.equal(compiled(*other), model(*other))


def test_export_with_dynamic_sizes():
    model, arguments = Layers(), inputs()
    n, h, w = (torch.export.Dim(name, min=2, max=64) for name in ("n", "h", "w"))
    shapes = ({0: n, 2: 2 * h + 1, 3: w}, {0: n, 2: h + 1, 3: w})
    program = torch.export.export(model, arguments, dynamic_shapes=shapes)
    assert "torch.ops.rebnn_mm.binary_conv2d.default" in program.graph_module.code
    other = inputs(n=3, h=11, w=8)
    assert torch.equal(program.module()(*other), model(*other))


def conv(x=None, residual=None, **changes):
    return Conv2dPlan(**(conv_arguments() | changes))(torch.randn(1, 6, 5, 5) if x is None else x, residual)


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
        (dict(shift=torch.rand(8)), ValueError, "shift has one element for each of 6"),
        (dict(bias=torch.rand(8).double()), TypeError, "bias is torch.float64"),
        (dict(scale=None), ValueError, "scale and offset"),
        (dict(rprelu=(torch.rand(8), torch.rand(8))), ValueError, "rprelu has 3 tensors, got 2"),
        (dict(groups=3), ValueError, "groups=3 does not divide the 8"),
        (dict(stride=0), ValueError, "stride=0"),
        (dict(padding=(1, 2, 3)), ValueError, "padding=.*an integer or two"),
        (dict(weight_shape=(8, 6, 3)), ValueError, "packed weight of|weight_shape"),
        (dict(weight_shape=(8, 6, 3, 2)), ValueError, "uint8 tensor of shape"),
        (dict(packed=torch.zeros(54)), ValueError, "got torch.float32"),
    ],
)
def test_errors_name_what_does_not_fit(changes, error, match):
    with pytest.raises(error, match=match):
        conv(**changes)


def test_linear_errors():
    plan = LinearPlan(**linear_arguments())
    with pytest.raises(ValueError, match=r"\(\.\.\., 6\), got \(2, 5\)"):
        plan(torch.randn(2, 5))
    with pytest.raises(ValueError, match=r"residual is \(2, 8\)"):
        plan(torch.randn(2, 6), torch.randn(2, 7))
    with pytest.raises(ValueError, match="a linear layer has"):
        LinearPlan(**linear_arguments() | dict(weight_shape=(8, 6, 1)))


def test_one_slope_serves_all_channels():
    arguments = conv_arguments()
    before, slope, after = arguments["rprelu"]
    one = Conv2dPlan(**arguments | dict(rprelu=(before, slope[:1], after)))
    all_same = Conv2dPlan(**arguments | dict(rprelu=(before, slope[:1].expand(8), after)))
    x, _ = inputs()
    assert torch.equal(one(x), all_same(x))


def test_the_classic_onnx_export_refuses_the_operator():
    # it used to write the numbers of one input as constants
    pytest.importorskip("onnx", reason="optional: pip install rebnn_mm[onnx]")
    layer = PackedConv2d(pack_signs(torch.randn(SHAPE)), torch.rand(8), ConvShape(SHAPE)).eval()
    with pytest.raises(torch.onnx.errors.UnsupportedOperatorError, match="rebnn_mm::binary_conv2d"):
        torch.onnx.export(layer, (torch.randn(1, 6, 5, 5),), io.BytesIO(), dynamo=False)
