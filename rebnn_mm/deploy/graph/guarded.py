"""Operators that trust their arguments, with the check that they lack: a file may give them anything.

Without it numbers of sizes grow without an end, and torch ends the process: integer division traps where the result
is too large, and two batch norms read beyond the end of vectors that are too short.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten
_LARGEST_POWER = 64


def _numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` of numbers alone, as a sum or a product of lists repeats them; an integer stays below 2^64."""

    @wraps(function)
    def guarded(*arguments: Any) -> Any:
        flat = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], (list, tuple)) else arguments
        if not all(isinstance(x, (int, float)) for x in flat):
            raise TypeError(
                f"{function.__name__} of sizes takes numbers, got {', '.join(type(x).__name__ for x in flat)}"
            )
        return _bounded(function(*arguments))

    return guarded


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and abs(value) > 1 << _LARGEST_POWER:
        raise ValueError(f"a number of {value.bit_length()} bits is no size")
    return value


def _power(x: Any, exponent: Any) -> Any:
    """``x ** exponent``, for small exponents: a large one would never end."""
    if abs(exponent) > _LARGEST_POWER or abs(x) > 1 << _LARGEST_POWER:
        raise ValueError(f"{x} ** {exponent} is no size")
    return _bounded(x**exponent)


def _shift_left(x: int, bits: int) -> int:
    if bits > _LARGEST_POWER:
        raise ValueError(f"{x} << {bits} is no size")
    return _bounded(x << bits)


def _division(target: Callable[..., Any]) -> Callable[..., Any]:
    """``target``, but for the smallest integer by -1, whose result no integer of its size is."""

    @wraps(target)
    def guarded(a: Any, b: Any, **keywords: Any) -> Any:
        kind = torch.result_type(a, b)
        if not (kind.is_floating_point or kind.is_complex or kind == torch.bool):
            least = torch.iinfo(kind).min
            if bool((torch.as_tensor(a).eq(least) & torch.as_tensor(b).eq(-1)).any()):
                raise ArithmeticError(f"{least} by -1 is no {kind}")
        return target(a, b, **keywords)

    return guarded


def _norm(target: Callable[..., Any]) -> Callable[..., Any]:
    """``target(x, vectors of the channels..., ...)``."""

    @wraps(target)
    def guarded(x: Tensor, *arguments: Any, **keywords: Any) -> Any:
        vectors = [value for value in (*arguments, *keywords.values()) if isinstance(value, Tensor)]
        if x.dim() < 2 or any(vector.shape != x.shape[1:2] for vector in vectors):
            raise ValueError(f"{target} of {tuple(x.shape)} with vectors of {[tuple(v.shape) for v in vectors]}")
        return target(x, *arguments, **keywords)

    return guarded


_DIVISIONS = (
    *("div.Tensor_mode", "div.Scalar_mode", "divide.Tensor_mode", "divide.Scalar_mode", "floor_divide.default"),
    *("floor_divide.Scalar", "remainder.Tensor", "remainder.Scalar", "remainder.Scalar_Tensor"),
    *("fmod.Tensor", "fmod.Scalar"),
)


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(_aten, packet), overload)


SYMBOLS: dict[Any, Callable[..., Any]] = {operator.pow: _power, operator.lshift: _shift_left}
"""Of those below the ones that symbols of sizes can be given, too, in a call that is recorded."""
GUARDED: dict[Any, Callable[..., Any]] = {
    **SYMBOLS,
    **{function: _numbers(function) for function in (operator.add, operator.mul, operator.mod)},
    **({torch.sym_sum: _numbers(torch.sym_sum)} if hasattr(torch, "sym_sum") else {}),
    **{_overload(name): _division(_overload(name)) for name in _DIVISIONS},
    **{
        target: _norm(target)
        for target in (
            _aten._native_batch_norm_legit_no_training.default,
            _aten._native_batch_norm_legit.no_stats,
        )
    },
}
"""By the operator: what computes it when a file's graph runs."""
