"""Options of the wrong kind or out of range: one sentence for each, before anything is built from it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from rebnn_mm.errors import UserError, UserTypeError


def is_number(value: object) -> bool:
    """Whether it is a finite int or float; True and False are none, and numpy's float32 belongs in no checkpoint."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_number(
    where: str,
    value: object,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    or_none: bool = False,
    hint: str = "",
) -> None:
    """Refuse what is not a finite number (True and False are none) within bounds.

    Args:
        where: The option's place for the message, as ``'LatentClipHook: limit'``.
        value: What was given.
        above: Numbers allowed are above this one,
        least: at least this one,
        below: and below this one.
        or_none: Whether None is allowed, too.
        hint: What else to say, behind the sentence.

    Raises:
        UserError: What came, and what is allowed.
    """
    if or_none and value is None:
        return
    fits = is_number(value)
    bounds = []
    if above is not None:
        bounds.append(f"> {above:g}")
        fits = fits and value > above
    if least is not None:
        bounds.append(f">= {least:g}")
        fits = fits and value >= least
    if below is not None:
        bounds.append(f"< {below:g}")
        fits = fits and value < below
    if not fits:
        raise UserError(_sentence(where, value, "a finite number", bounds, or_none, hint))


def check_whole(where: str, value: object, least: int = 1, or_none: bool = False, hint: str = "") -> None:
    """Refuse what is not a whole number (True and 2.0 are none) from ``least`` on; arguments as above.

    Raises:
        UserError: What came, and what is allowed.
    """
    if or_none and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(_sentence(where, value, "a whole number", [f">= {least}"], or_none, hint))


def _sentence(where: str, value: object, kind: str, bounds: list[str], or_none: bool, hint: str) -> str:
    allowed = " ".join([kind, " and ".join(bounds)]).rstrip()
    return f"{where}={value!r} must be {allowed}{', or None' if or_none else ''}{hint}"


def check_dict(where: str, value: object, hint: str = "") -> None:
    """Refuse what is no mapping.

    Raises:
        UserError: What came.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"{where}={value!r}: a dict is needed{hint}")


def check_config(where: str, value: object, example: str) -> None:
    """Refuse what is no config of a layer: a mapping with a ``type``, as the name ``example`` has.

    Raises:
        UserError: What came, and what is allowed.
    """
    if not isinstance(value, Mapping) or "type" not in value:
        raise UserError(f"{where}={value!r}: a dict is needed with a type, as dict(type={example!r})")


def check_module(who: str, model: object) -> None:
    """Refuse a ``model`` that is none, a state dict for example.

    Raises:
        UserTypeError: What came.
    """
    if not isinstance(model, nn.Module):
        raise UserTypeError(f"{who}: a torch.nn.Module is needed, and model is of type {type(model).__name__}")
