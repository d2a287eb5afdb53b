"""What a packed layer computes, apart from its bits: its shape and the real-valued steps around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.deploy.operation.signs import words
from rebnn_mm.errors import UserError, UserTypeError

Pair = int | Sequence[int]
Affine = tuple[Tensor, Tensor]


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


@dataclass(frozen=True)
class InputSide:
    """What happens to the input in front of its sign: ``sign(fma(x + shift, *norm))``; None leaves a step out.

    Attributes:
        shift: (C_in,), added.
        norm: (scale, offset), each (C_in,): a batch norm, see
            :func:`rebnn_mm.deploy.operation.reference.fold_batch_norm`.
    """

    shift: Tensor | None = None
    norm: Affine | None = None


@dataclass(frozen=True)
class Epilogue:
    """Real-valued steps behind the integer convolution; tensors are (C_out,), None leaves a step out.

    In this order: ``y * alpha + bias``; ``fma(y, *norm)``; ``+ residual``; ``+ before``; ``* slope`` where ``y`` is
    not positive; ``+ after``; limited to ``clamp``; ``fma(y, *last_norm)``. That is RPReLU with all of ``before``,
    ``slope``, ``after``; PReLU with ``slope`` alone; ReLU with ``clamp=(0, inf)``, ReLU6 with ``clamp=(0, 6)``.

    Attributes:
        slope: (C_out,), or one element for all channels.
        clamp: (lowest, highest) value; NaN stays NaN.
        last_norm: A batch norm behind the activation.
        residual_last: Add the residual behind everything else instead.
        sign: Pack the result's signs, behind these steps of the layer that will read them. The signs are
            int32 (N, H', W', ceil(C_out/32)): bit c % 32 of word c // 32 is set where channel c is at least 0; bits
            behind the last channel are 0.
        floats: Return the result as float32; False with ``sign`` returns the signs alone.
    """

    alpha: Tensor
    bias: Tensor | None = None
    norm: Affine | None = None
    before: Tensor | None = None
    slope: Tensor | None = None
    after: Tensor | None = None
    clamp: tuple[float, float] | None = None
    last_norm: Affine | None = None
    residual_last: bool = False
    sign: InputSide | None = None
    floats: bool = True


# names of all tensors of both sides, as the native library has them
TENSORS = (
    *("shift", "input_scale", "input_offset"),
    *("alpha", "bias", "scale", "offset", "before", "slope", "after", "last_scale", "last_offset"),
    *("sign_shift", "sign_scale", "sign_offset"),
)


def tensors_of(before: InputSide, after: Epilogue) -> dict[str, Tensor]:
    """All tensors of both sides, without those that are None, in the order of ``TENSORS``."""
    sign = after.sign or InputSide()
    none = (None, None)
    tensors = (
        *(before.shift, *(before.norm or none)),
        *(after.alpha, after.bias, *(after.norm or none), after.before, after.slope, after.after),
        *(after.last_norm or none),
        *(sign.shift, *(sign.norm or none)),
    )
    return {name: tensor for name, tensor in zip(TENSORS, tensors, strict=True) if tensor is not None}


def sides_of(
    tensors: dict[str, Tensor], clamp: Sequence[float] | None, residual_last: bool, signs: bool, floats: bool
) -> tuple[InputSide, Epilogue]:
    """The inverse of :func:`tensors_of`."""
    unknown = set(tensors) - set(TENSORS)
    if unknown or "alpha" not in tensors:
        raise ValueError(f"tensors are alpha and some of {', '.join(TENSORS)}; got {', '.join(tensors) or 'none'}")
    get = tensors.get
    after = Epilogue(
        **{name: get(name) for name in ("alpha", "bias", "before", "slope", "after")},  # type: ignore[arg-type]
        norm=_together(tensors, "scale", "offset"),
        clamp=None if clamp is None else tuple(clamp),  # type: ignore[arg-type]
        last_norm=_together(tensors, "last_scale", "last_offset"),
        residual_last=residual_last,
        sign=InputSide(get("sign_shift"), _together(tensors, "sign_scale", "sign_offset")) if signs else None,
        floats=floats,
    )
    return InputSide(get("shift"), _together(tensors, "input_scale", "input_offset")), after


def _together(tensors: dict[str, Tensor], *names: str) -> Affine | None:
    parts = [tensors[name] for name in names if name in tensors]
    if len(parts) == 1:
        raise ValueError(f"{' and '.join(names)} make one norm: give both or neither")
    return tuple(parts) or None  # type: ignore[return-value]


def copied(before: InputSide, after: Epilogue) -> tuple[InputSide, Epilogue]:
    """The same with memory of its own, so that nobody else changes it."""
    tensors = {name: tensor.clone() for name, tensor in tensors_of(before, after).items()}
    return sides_of(tensors, after.clamp, after.residual_last, after.sign is not None, after.floats)


def checked(spec: ConvSpec, before: InputSide, after: Epilogue) -> tuple[InputSide, Epilogue]:
    """The same with detached, contiguous vectors of the right length.

    Raises:
        TypeError, ValueError: A parameter has another dtype, device or length, or does not fit the others.
    """
    sign = None if after.sign is None else _checked_side(after.sign, spec.c_out, "sign")
    if sign is None and not after.floats:
        raise ValueError("floats=False without a sign: the layer would return nothing")
    own: dict[str, Any] = {}
    for field in fields(after):
        value = getattr(after, field.name)
        if isinstance(value, Tensor):
            own[field.name] = check_vector(value, field.name, spec.c_out)
    for name in ("norm", "last_norm"):
        own[name] = _checked_affine(getattr(after, name), name, spec.c_out)
    if after.clamp is not None:
        low, high = map(float, after.clamp)
        if not low <= high:
            raise ValueError(f"clamp={after.clamp}: (lowest, highest), in this order")
        own["clamp"] = (low, high)
    return _checked_side(before, spec.c_in, "input"), replace(after, **own, sign=sign)


def _checked_side(side: InputSide, channels: int, name: str) -> InputSide:
    shift = None if side.shift is None else check_vector(side.shift, f"the {name} shift", channels)
    return InputSide(shift, _checked_affine(side.norm, f"the {name} norm", channels))


def _checked_affine(norm: Affine | None, name: str, channels: int) -> Affine | None:
    if norm is None:
        return None
    if len(norm) != 2 or any(part is None for part in norm):
        raise ValueError(f"{name} is a pair, scale and offset, got {norm!r}")
    return check_vector(norm[0], f"{name}'s scale", channels), check_vector(norm[1], f"{name}'s offset", channels)


def check_vector(value: Tensor, name: str, channels: int) -> Tensor:
    """``value`` as a dense vector of ``channels`` elements, without gradient.

    Raises:
        TypeError, ValueError: It is not float32 on the CPU, or has another number of elements.
    """
    check_float(value, name)
    # one PReLU slope may serve all channels
    if name == "slope" and value.numel() == 1:
        return value.detach().resolve_neg().flatten().expand(channels).contiguous()
    if value.numel() != channels:
        raise ValueError(f"{name} has one element for each of {channels} channels, got the shape {tuple(value.shape)}")
    return value.detach().resolve_neg().flatten().contiguous()


def check_float(value: Tensor, name: str) -> None:
    """Raise TypeError unless ``value`` is a float32 tensor with memory of its own on the CPU."""
    if value.dtype != torch.float32:
        raise UserTypeError(
            f"{name} is {value.dtype}; packed layers take float32: call .float(), and run them outside of autocast"
        )
    check_cpu(value, name)


def check_cpu(value: Tensor, name: str) -> None:
    """Raise TypeError unless ``value`` is a tensor with memory of its own on the CPU."""
    if not value.is_cpu:
        raise UserTypeError(f"{name} is on {value.device}; packed layers run on the CPU: call .cpu()")
    if value.layout != torch.strided:
        raise UserTypeError(f"{name} has the layout {value.layout}; packed layers take dense ones: call .to_dense()")
