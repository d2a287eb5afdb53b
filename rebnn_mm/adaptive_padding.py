"""Convolutions of other packages that pad by the size of their input, as TensorFlow's "same" padding does.

Their outputs are the inputs' sizes divided by the stride and rounded up: with a stride, the zeros on each side depend
on the size of the input.
"""

from __future__ import annotations

from typing import Any

from torch import nn

# By name, so that no other package is imported
PADS_BY_SIZE = {
    "mmcv.cnn.bricks.conv2d_adaptive_padding.Conv2dAdaptivePadding",
    "timm.layers.conv2d_same.Conv2dSame",
    "timm.layers.conv2d_same.Conv2dSameExport",
}


def full_name(kind: Any) -> str:
    """Module and name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def padding_of(conv: Any) -> Any:
    """The ``padding`` of a convolution; None for one that pads by the size of its input and not always alike."""
    if not any(full_name(kind) in PADS_BY_SIZE for kind in type(conv).__mro__):
        return conv.padding
    reach = [dilation * (size - 1) for dilation, size in zip(conv.dilation, conv.kernel_size, strict=True)]
    steady = all(n == 0 or (step == 1 and n % 2 == 0) for n, step in zip(reach, conv.stride, strict=True))
    return tuple(n // 2 for n in reach) if steady else None


def pads_by_size(model: nn.Module) -> bool:
    """Whether a convolution of ``model`` is such a one, whatever its kernel and stride."""
    return any(full_name(kind) in PADS_BY_SIZE for module in model.modules() for kind in type(module).__mro__)
