"""``base='mmdet::yolox/yolox_s_8xb8-300e_coco.py'``: the model of a config that a library ships."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from mmengine.config import Config, ConfigDict

from rebnn_mm.errors import UserError


def expand_stock(value: Any) -> Any:
    """``value`` with every ``dict(base='LIBRARY::CONFIG', ...)`` in it replaced by that config's model.

    ``base`` then is that model's ``type``; the other keys are merged into the model, as a config's into its ``_base_``.

    Raises:
        ValueError: The library is not installed, or has no such config, or it holds no model.
    """
    if not _names_config(value):
        return value  # itself: a config in Python's own syntax would lose what it builds later
    if not isinstance(value, dict):
        return type(value)(expand_stock(item) for item in value)
    value = ConfigDict({key: expand_stock(item) for key, item in value.items()})  # mmdet reads keys as attributes
    return _merged(value, value.base) if _is_config(value.get("base")) else value


def _names_config(value: Any) -> bool:
    if isinstance(value, dict):
        return _is_config(value.get("base")) or any(_names_config(item) for item in value.values())
    return isinstance(value, (list, tuple)) and any(_names_config(item) for item in value)


def _is_config(base: Any) -> bool:
    return isinstance(base, str) and "::" in base


def _merged(own: ConfigDict, base: str) -> ConfigDict:
    from mmengine.hub import get_config  # here: it imports the runner, for a second

    package = base.partition("::")[0]
    if find_spec(package) is None:  # mmengine would install it
        raise UserError(f"base={base!r} is a config of {package}, which is not installed: pip install rebnn_mm[mm]")
    try:
        stock = get_config(base)
    except (OSError, ValueError, KeyError) as error:
        example = "'mmdet::yolox/yolox_s_8xb8-300e_coco.py'"
        raise UserError(f"base={base!r}: {package} ships no such config; a right one is {example}") from error
    if "model" not in stock:
        example = "'mmdet::_base_/models/mask-rcnn_r50_fpn.py'"
        raise UserError(f"base={base!r} holds no model: give a config that has one, as {example}")
    merged = Config(dict(model=dict(stock.model, base=stock.model.type)))
    merged.merge_from_dict(dict(model={key: item for key, item in own.items() if key != "base"}))
    return merged.model
