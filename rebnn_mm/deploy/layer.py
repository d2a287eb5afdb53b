"""What a bit-packed layer is, apart from its bits: its geometry and its real-valued parameters, both checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.errors import UserError, UserTypeError

Pair = int | Sequence[int]
RPReLUParameters = tuple[Tensor, Tensor, Tensor]


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
class Geometry:
    """Sizes of a 2-d convolution; pairs are (vertical, horizontal).

    Attributes:
        weight_shape: (C_out, C_in/groups, K_h, K_w).
        padding: Pixels of zeros around the binary input.
    """

    weight_shape: tuple[int, int, int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, weight_shape: Sequence[int], stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Geometry:
        """From the arguments of a convolution.

        Raises:
            ValueError: A size is out of range, or the groups do not divide the channels.
        """
        if len(weight_shape) != 4 or min(weight_shape) < 1:
            raise ValueError(f"weight_shape={tuple(weight_shape)}: (C_out, C_in/groups, K_h, K_w), all at least 1")
        c_out, c_in, k_h, k_w = weight_shape
        if groups < 1 or c_out % groups:
            raise ValueError(f"groups={groups} does not divide the {c_out} output channels")
        if c_in * k_h * k_w > 1 << 24:
            raise ValueError(f"{c_in * k_h * k_w} products in a sum: float32 counts exactly only up to 2**24")
        return cls(
            (c_out, c_in, k_h, k_w),
            pair(stride, "stride", 1),
            pair(padding, "padding", 0),
            pair(dilation, "dilation", 1),
            groups,
        )

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
            TypeError, ValueError: ``x`` is no float32 CPU tensor (N, C_in, H, W) that the kernel fits.
        """
        check_float(x, "the input")
        shape = x.shape
        if len(shape) != 4 or shape[1] != self.weight_shape[1] * self.groups:
            raise ValueError(f"the input is (N, {self.c_in}, H, W), got {tuple(shape)}")
        n, _, h, w = shape
        out_h, out_w = self.output_size(h, w)
        if min(h, w, out_h, out_w) < 1:
            raise UserError(f"an input of {tuple(shape)} leaves no output pixel: {self}")
        return n, self.weight_shape[0], out_h, out_w


@dataclass(frozen=True)
class Parameters:
    """Real-valued parameters, float32 vectors of C_out elements if nothing else is said; None leaves a step out.

    In this order: ``sign(fma(x + shift, *input_norm))``, the integer convolution, ``* alpha``, ``+ bias``,
    ``fma(y, scale, offset)``, ``+ residual``, and RPReLU.

    Attributes:
        shift: C_in elements, added before the sign.
        input_norm: Scale and offset of C_in elements, a batch norm in front of the sign.
        scale, offset: The batch norm behind the convolution, see :func:`rebnn_mm.deploy.reference.fold_batch_norm`.
        rprelu: ``before``, ``slope`` and ``after``: ``y + before``, times ``slope`` unless positive, ``+ after``.
    """

    alpha: Tensor
    shift: Tensor | None = None
    input_norm: tuple[Tensor, Tensor] | None = None
    bias: Tensor | None = None
    scale: Tensor | None = None
    offset: Tensor | None = None
    rprelu: RPReLUParameters | None = None

    def checked(self, c_in: int, c_out: int) -> Parameters:
        """The same as detached, contiguous vectors of the right length.

        Raises:
            TypeError, ValueError: A parameter has another dtype, device or length, or lacks its counterpart.
        """
        if (self.scale is None) != (self.offset is None):
            raise ValueError("scale and offset make one batch norm: give both or neither")
        vectors: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            channels = c_in if field.name in ("shift", "input_norm") else c_out
            if isinstance(value, (tuple, list)):
                count = 2 if field.name == "input_norm" else 3
                if len(value) != count:
                    raise ValueError(f"{field.name} has {count} tensors, got {len(value)}")
                vectors[field.name] = tuple(check_vector(part, field.name, channels) for part in value)
            else:
                vectors[field.name] = None if value is None else check_vector(value, field.name, channels)
        return Parameters(**vectors)

    def copied(self) -> Parameters:
        """The same with memory of its own, so that nobody else changes it."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return Parameters(**{name: _copied(value) for name, value in own.items()})


def _copied(value: Any) -> Any:
    return tuple(map(_copied, value)) if isinstance(value, tuple) else None if value is None else value.clone()


def check_vector(value: Tensor, name: str, channels: int) -> Tensor:
    """``value`` as a dense vector of ``channels`` elements, without gradient.

    Raises:
        TypeError, ValueError: It is not float32 on the CPU, or has another number of elements.
    """
    check_float(value, name)
    # one PReLU slope may serve all channels
    if name == "rprelu" and value.numel() == 1:
        return value.detach().resolve_neg().flatten().expand(channels).contiguous()
    if value.numel() != channels:
        raise ValueError(f"{name} has one element for each of {channels} channels, got the shape {tuple(value.shape)}")
    return value.detach().resolve_neg().flatten().contiguous()


def check_float(value: Tensor, name: str) -> None:
    """Raise TypeError unless ``value`` is a float32 tensor with memory of its own on the CPU."""
    if value.dtype != torch.float32:
        raise UserTypeError(
            f"{name} is {value.dtype}; bit-packed layers take float32: call .float(), and run them outside of autocast"
        )
    if not value.is_cpu:
        raise UserTypeError(f"{name} is on {value.device}; bit-packed layers run on the CPU: call .cpu()")
    if value.layout != torch.strided:
        raise UserTypeError(
            f"{name} has the layout {value.layout}; bit-packed layers take dense ones: call .to_dense()"
        )
