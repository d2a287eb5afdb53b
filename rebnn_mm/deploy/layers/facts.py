"""What a packed layer keeps of the ``nn.Conv2d`` or ``nn.Linear`` it replaces: sizes, and facts of the weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from rebnn_mm.deploy.operation.spec import ConvSpec

_OF_CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
_OF_LINEAR = ("in_features", "out_features")


class WeightFacts:
    """Shape, type and place of a weight that is held as bits: no tensor, so nothing can compute with it unseen.

    A module may ask for ``self.proj.weight.device`` or ``.dtype`` while it computes; these are the trained layer's on
    the CPU, whatever the bits are stored as.

    Args:
        shape: Of the trained layer's weight.
    """

    dtype = torch.float32
    layout = torch.strided
    device = torch.device("cpu")
    is_cuda = False
    requires_grad = False

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = torch.Size(shape)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def numel(self) -> int:
        """Number of elements."""
        return self.shape.numel()

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one of its sizes."""
        return self.shape if dim is None else self.shape[dim]


class AsTrained(nn.Module):
    """A packed layer that says what the trained one says of itself: its sizes, and facts of its weight."""

    def _describe(self, shape: Sequence[int], sizes: dict[str, Any]) -> None:
        """Set the attributes; ``bias`` is None unless a buffer has that name.

        Args:
            shape: Of the weight.
            sizes: See :func:`sizes_of_layer` and :func:`sizes_of_spec`.
        """
        self._weight_facts = WeightFacts(shape)
        for name, value in sizes.items():
            setattr(self, name, value)

    @property
    def weight(self) -> WeightFacts:
        """Facts of the weight."""
        return self._weight_facts


def sizes_of_layer(layer: nn.Module) -> dict[str, Any]:
    """What a convolution or a linear layer says of its shape."""
    return {name: getattr(layer, name) for name in (*_OF_CONV, *_OF_LINEAR) if hasattr(layer, name)}


def sizes_of_spec(spec: ConvSpec, linear: bool) -> dict[str, Any]:
    """The same from the description of a packed layer; what its bits are padded with is zero."""
    outputs, inputs, *kernel = spec.weight_shape
    if linear:
        return dict(zip(_OF_LINEAR, (inputs, outputs), strict=True))
    places = (tuple(kernel), spec.stride, spec.padding, spec.dilation, spec.groups, "zeros")
    return dict(zip(_OF_CONV, (inputs * spec.groups, outputs, *places), strict=True))
