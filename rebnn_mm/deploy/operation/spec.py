"""Sizes of a 1-bit operation, a convolution or a linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rebnn_mm.deploy.operation.checks import check_cpu, check_float
from rebnn_mm.deploy.operation.signs import words
from rebnn_mm.errors import UserError
from rebnn_mm.moved import names_of

__getattr__ = names_of("rebnn_mm.deploy.operation.steps", __name__)

Pair = int | Sequence[int]


def pair(value: Pair, name: str, least: int) -> tuple[int, int]:
    """``value`` as (vertical, horizontal).

    Raises:
        ValueError: Neither an integer nor two, or one below ``least``.
    """
    both = (value, value) if isinstance(value, int) else tuple(value)
    if len(both) != 2 or min(both) < least:
        raise ValueError(f"{name}={value!r}: an integer or two, at least {least}")
    return both


@dataclass(frozen=True)
class ConvSpec:
    """Sizes of a 2-d convolution with zero padding; pairs are (vertical, horizontal).

    A linear layer is its 1x1 case, see :meth:`linear`.

    Attributes:
        weight_shape: (C_out, C_in/groups, K_h, K_w).
        padding: Pixels of zeros around the binary input.

    Raises:
        ValueError: A size is out of range, or the groups do not divide the channels.
    """

    weight_shape: tuple[int, int, int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        shape = tuple(self.weight_shape)
        if len(shape) != 4 or min(shape) < 1:
            raise ValueError(f"weight_shape={shape}: (C_out, C_in/groups, K_h, K_w), all at least 1")
        if self.groups < 1 or shape[0] % self.groups:
            raise ValueError(f"groups={self.groups} does not divide the {shape[0]} output channels")
        products = shape[1] * shape[2] * shape[3]
        if products > 1 << 24:
            raise ValueError(f"{products} products in a sum: float32 counts exactly only up to 2**24")
        object.__setattr__(self, "weight_shape", shape)
        for name, least in (("stride", 1), ("padding", 0), ("dilation", 1)):
            object.__setattr__(self, name, pair(getattr(self, name), name, least))

    @classmethod
    def of(
        cls, weight_shape: Sequence[int], stride: Pair = 1, padding: Pair = 0, dilation: Pair = 1, groups: int = 1
    ) -> ConvSpec:
        """From the arguments of ``torch.nn.functional.conv2d``, where one integer may stand for two."""
        return cls(weight_shape, stride, padding, dilation, groups)  # type: ignore[arg-type]

    @classmethod
    def linear(cls, c_out: int, c_in: int) -> ConvSpec:
        """A linear layer: its rows are the pixels of a 1x1 convolution."""
        return cls((c_out, c_in, 1, 1))

    @classmethod
    def from_ints(cls, ints: Sequence[int]) -> ConvSpec:
        """The inverse of :meth:`ints`."""
        if len(ints) != 11:
            raise ValueError(f"a geometry is 11 integers (see ConvSpec.ints), got {len(ints)}")
        return cls.of(ints[:4], ints[4:6], ints[6:8], ints[8:10], ints[10])

    def ints(self) -> list[int]:
        """C_out, C_in/groups, K_h, K_w, stride, padding and dilation (two each), groups."""
        return [*self.weight_shape, *self.stride, *self.padding, *self.dilation, self.groups]

    @property
    def c_in(self) -> int:
        """Channels of the input."""
        return self.weight_shape[1] * self.groups

    @property
    def c_out(self) -> int:
        """Channels of the output."""
        return self.weight_shape[0]

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output."""
        return self._along(0, height), self._along(1, width)

    def _along(self, axis: int, size: int) -> int:
        span = self.dilation[axis] * (self.weight_shape[2 + axis] - 1) + 1
        return (size + 2 * self.padding[axis] - span) // self.stride[axis] + 1

    def output_shape(self, x: Tensor) -> tuple[int, int, int, int]:
        """(N, C_out, H', W') of the output for the input ``x``.

        Raises:
            TypeError, ValueError: ``x`` is neither a float32 CPU tensor (N, C_in, H, W) that the kernel fits, nor
                signs, int32 (N, H, W, ceil(C_in/32)).
        """
        shape = x.shape
        if x.dtype == torch.int32:
            check_cpu(x, "the input")
            if len(shape) != 4 or shape[3] != words(self.c_in):
                raise ValueError(f"signs are (N, H, W, {words(self.c_in)}), got {tuple(shape)}")
            n, h, w, _ = shape
        else:
            check_float(x, "the input")
            if len(shape) != 4 or shape[1] != self.c_in:
                raise ValueError(f"the input is (N, {self.c_in}, H, W), got {tuple(shape)}")
            n, _, h, w = shape
        out_h, out_w = self.output_size(h, w)
        if min(h, w, out_h, out_w) < 1:
            raise UserError(f"an input of {tuple(shape)} leaves no output pixel: {self}")
        return n, self.c_out, out_h, out_w
