"""The real-valued steps around a 1-bit operation: in front of the sign, and behind the integer result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from rebnn_mm.deploy.operation.checks import check_vector
from rebnn_mm.deploy.operation.spec import ConvSpec

Affine = tuple[Tensor, Tensor]
"""Scale and offset, one of each for a channel: ``fma(x, scale, offset)``."""


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
