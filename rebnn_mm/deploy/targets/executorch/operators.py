"""The operators that the delegate computes: 1-bit layers, and some real-valued ones, which are defined here.

XNNPACK takes most real-valued convolutions. Ours are stems, which the kernels compute together with the max-pool behind
them, and convolutions of one output channel: their result lies in memory as NHWC and NCHW at once, which ExecuTorch
takes for NCHW and XNNPACK for NHWC, and then the program stops with error 16. XNNPACK has no nearest upsampling, and a
program that needs nothing of ExecuTorch's kernel library goes without its 10.7 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.functional import conv2d, max_pool2d

from rebnn_mm.deploy.graph.functions import affine
from rebnn_mm.deploy.graph.unit import CONV, CONV_BOTH, LINEAR, LINEAR_BOTH
from rebnn_mm.deploy.operation.spec import ConvSpec

_NHWC = torch.channels_last


@torch.library.custom_op("rebnn_mm::real_conv2d", mutates_args=(), device_types="cpu")
def real_conv2d(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    offset: Tensor,
    geometry: Sequence[int],
    clamp: Sequence[float],
    max_pool: bool,
) -> Tensor:
    """``clamp(fma(conv2d(x, weight), scale, offset))``, (N, C_in, H, W) -> (N, C_out, H', W') in channels-last memory.

    Args:
        x: float32.
        weight: (C_out, C_in, K_h, K_w).
        scale: (C_out,).
        offset: (C_out,).
        geometry: :meth:`ConvSpec.ints`, of one group and no dilation.
        clamp: (lowest, highest) value.
        max_pool: Take the maximum over 3x3 windows, stride 2, padding 1, in front of the norm.
    """
    spec = ConvSpec.from_ints(geometry)
    y = conv2d(x, weight, None, spec.stride, spec.padding)
    if max_pool:
        y = max_pool2d(y, 3, 2, 1)
    return affine(y, scale, offset).clamp(*clamp).contiguous(memory_format=_NHWC)


@real_conv2d.register_fake
def _(x, weight, scale, offset, geometry, clamp, max_pool):
    spec = ConvSpec.from_ints(geometry)
    h, w = spec.output_size(*x.shape[2:])
    if max_pool:
        h, w = (h + 1) // 2, (w + 1) // 2
    return x.new_empty((x.shape[0], spec.c_out, h, w)).contiguous(memory_format=_NHWC)


@torch.library.custom_op("rebnn_mm::nearest2d", mutates_args=(), device_types="cpu")
def nearest2d(x: Tensor, times: Sequence[int]) -> Tensor:
    """Repeat each pixel, (N, C, H, W) -> (N, C, times[0] H, times[1] W) in channels-last memory."""
    y = x.repeat_interleave(times[0], 2).repeat_interleave(times[1], 3)
    return y.contiguous(memory_format=_NHWC)


@nearest2d.register_fake
def _(x, times):
    n, c, h, w = x.shape
    return x.new_empty((n, c, h * times[0], w * times[1])).contiguous(memory_format=_NHWC)


MOST_TIMES = 64  # of nearest2d, in each direction
NEAREST = torch.ops.rebnn_mm.nearest2d.default
REAL = torch.ops.rebnn_mm.real_conv2d.default
BOTH, ONE = (CONV_BOTH, LINEAR_BOTH), (CONV, LINEAR)  # with signs and floats, with one of them


def operator_of(node: fx.Node) -> Any:
    """The operator of a node, which the edge dialect wraps."""
    inside = getattr(node.target, "_op", None)
    return inside if isinstance(inside, torch._ops.OpOverload) else node.target


def is_ours(node: fx.Node) -> bool:
    """Whether the delegate computes ``node``."""
    return node.op == "call_function" and operator_of(node) in (*ONE, *BOTH, REAL, NEAREST)


def name_of(node: fx.Node) -> str:
    """What an operator of ours is, with its sizes."""
    if operator_of(node) is NEAREST:
        times: Any = node.args[1]
        return f"nearest upsampling {times[0]}x{times[1]}"
    real = operator_of(node) is REAL
    geometry: Any = node.args[4 if real else 2]
    c_out, c_in, *kernel = geometry[:4]
    if operator_of(node) in (LINEAR, LINEAR_BOTH):
        return f"1-bit linear layer {c_in} -> {c_out}"
    pool = ", max-pool" if real and node.args[6] else ""
    size = f"{kernel[0]}x{kernel[1]}, {c_in} -> {c_out} channels"
    return f"{'real-valued' if real else '1-bit'} convolution {size}{pool}"
