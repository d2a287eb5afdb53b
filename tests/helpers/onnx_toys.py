"""Networks with every step of a 1-bit unit, and ONNX's packed operators as docs/onnx.md describes them."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rebnn_mm.deploy.layers.operators import binary_conv2d, binary_linear
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Epilogue, InputSide
from rebnn_mm.deploy.targets.onnx import DOMAIN
from rebnn_mm.deploy.targets.onnx.units import QONNX_DOMAIN
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear


def tensors(output):
    """Tensors of nested tuples, lists and dicts."""
    if isinstance(output, torch.Tensor):
        return [output]
    return [tensor for item in (output.values() if isinstance(output, dict) else output) for tensor in tensors(item)]


class Units(nn.Module):
    """1-bit convolutions with every step that is computed in one pass with them, and signs between them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        convs = [ReBNNConv2d(8, 8, 3, padding=1, bias=index == 1, input_norm=index in (0, 3)) for index in range(5)]
        self.convs, self.norms = nn.ModuleList(convs), nn.ModuleList(nn.BatchNorm2d(8) for _ in range(4))
        self.prelu, self.shift = nn.PReLU(8), nn.Parameter(torch.randn(8, 1, 1))
        self.grouped = ReBNNConv2d(8, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)
        self.pointwise, self.small = ReBNNConv2d(6, 6, 1), nn.Parameter(torch.randn(6, 1, 1))
        self.padded = ReBNNConv2d(6, 5, 3, padding=1, padding_mode="reflect", shortcut=False)

    def forward(self, x):
        y = self.norms[0](self.convs[0](x + self.shift)) + x
        y = self.norms[1](F.relu(self.convs[1](y)))
        y = F.hardtanh(self.convs[2](y + self.shift)) + y
        z = self.norms[2](self.prelu(self.norms[3](self.convs[3](y)) + self.shift) + self.shift)
        z = F.max_pool2d(z, 3, 1, 1)  # else the next layer takes the norm
        y = F.relu(self.grouped(self.convs[4](z) + z)) + self.small
        return self.padded(self.pointwise(y))


class ShortcutLast(nn.Module):
    """A shortcut around the activation, in plain sight."""

    def __init__(self):
        super().__init__()
        self.conv = ReBNNConv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return F.relu6(self.conv(x)) + x


class Linears(nn.Module):
    """1-bit linear layers on rows and on sequences."""

    def __init__(self):
        super().__init__()
        self.first, self.second = ReBNNLinear(9, 7), ReBNNLinear(7, 7, bias=False)
        self.norm, self.last = nn.BatchNorm1d(7), ReBNNLinear(7, 3, input_norm=True)

    def forward(self, x):
        y = F.relu(self.first(x)) + 0.5
        y = y - y.mean(-1, keepdim=True)
        return self.last(self.norm(self.second(y)))


def packed_operators():
    """Implementations for ONNX's reference evaluator, on top of the package's own operators."""
    from onnx.reference.op_run import OpRun

    def unit(operator, spec, inputs, clamp, shortcut_last):
        x, bits, shortcut, *vectors = (None if value is None else torch.from_numpy(value.copy()) for value in inputs)
        vectors += [None] * (12 - len(vectors))
        shift, scale_in, offset_in, alpha, bias, scale, offset, before, slope, after, scale_out, offset_out = vectors

        def both(a, b):
            return None if a is None else (a, b)

        epilogue = Epilogue(
            alpha,
            bias,
            both(scale, offset),
            before,
            slope,
            after,
            None if clamp is None else tuple(clamp),
            both(scale_out, offset_out),
            bool(shortcut_last),
        )
        side = InputSide(shift, both(scale_in, offset_in))
        return (operator(x, bits, spec, side, epilogue, shortcut).numpy(),)

    class BinaryConv2d(OpRun):
        op_domain = DOMAIN

        def _run(self, *inputs, weight_shape, strides, pads, dilations, group, clamp=None, shortcut_last=None):
            spec = ConvSpec.of(weight_shape, strides, pads[:2], dilations, group)
            return unit(binary_conv2d, spec, inputs, clamp, shortcut_last)

    class BinaryLinear(OpRun):
        op_domain = DOMAIN

        def _run(self, *inputs, weight_shape, clamp=None, shortcut_last=None):
            return unit(binary_linear, ConvSpec.linear(*weight_shape), inputs, clamp, shortcut_last)

    class BipolarQuant(OpRun):
        op_domain = QONNX_DOMAIN

        def _run(self, x, scale):
            return (np.where(x >= 0, scale, -scale).astype(np.float32),)

    return [BinaryConv2d, BinaryLinear, BipolarQuant]
