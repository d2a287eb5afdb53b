"""Plain Python values as JSON text and back: what the header of a ``.rebnn`` file is made of.

JSON has no tuples, no infinities and only string keys, and configs have all three (mmcv refuses a
list where it wants a tuple). They are written as an object with one key that starts with ``$``:

====================== ===============================================================
value                  JSON
====================== ===============================================================
tuple                  ``{"$tuple": [...]}``
inf, -inf, nan         ``{"$float": "inf"}``
dict with other keys   ``{"$dict": [[key, value], ...]}``
====================== ===============================================================
"""

from __future__ import annotations

import json
import math
from typing import Any

from rebnn_mm.errors import UserTypeError

_FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def dumps(value: Any) -> str:
    """JSON text of ``value``: None, bool, int, float, str, and lists, tuples and dicts of them.

    Raises:
        TypeError: Something else is in it; its path is named.
    """
    return json.dumps(_encode(value, ""), separators=(",", ":"), allow_nan=False)


def loads(text: str) -> Any:
    """Inverse of :func:`dumps`; builds plain values only, whatever the text.

    Raises:
        ValueError: No JSON, a key given twice, nested too deeply, or an unknown ``$`` form.
    """
    try:
        return json.loads(text, object_pairs_hook=_decode, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _encode(value: Any, path: str) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, tuple):
        return {"$tuple": [_encode(item, f"{path}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, list):
        return [_encode(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        items = {key: _encode(item, f"{path}.{key}") for key, item in value.items()}
        if all(isinstance(key, str) and not key.startswith("$") for key in items):
            return items
        return {"$dict": [[_encode(key, path), item] for key, item in items.items()]}
    raise UserTypeError(
        f"{path.lstrip('.') or 'the value'} is a {type(value).__name__}: a file holds None, bool, int, float, str, "
        "list, tuple and dict only; write it as one of them"
    )


def _decode(pairs: list[tuple[str, Any]]) -> Any:
    items = dict(pairs)
    if len(items) != len(pairs):
        raise ValueError("a key is given twice")
    forms = [key for key in items if key.startswith("$")]
    if not forms:
        return items
    if len(items) != 1:
        raise ValueError(f"{forms[0]} stands beside other keys")
    value = items[forms[0]]
    if forms[0] == "$tuple" and isinstance(value, list):
        return tuple(value)
    if forms[0] == "$float" and isinstance(value, str) and value in _FLOATS:
        return _FLOATS[value]
    if forms[0] == "$dict" and isinstance(value, list):
        return _pairs_to_dict(value)
    raise ValueError(f"{forms[0]} is none of $tuple, $float, $dict, or holds the wrong kind of value")


def _pairs_to_dict(value: list[Any]) -> dict[Any, Any]:
    try:
        result = {key: item for key, item in value}
    except (TypeError, ValueError):
        raise ValueError("$dict is no list of pairs with plain keys") from None
    if len(result) != len(value):
        raise ValueError("a key is given twice")
    return result


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
