"""Values of a config that mmengine's runner uses by itself: their kinds, and the names that it reads.

A type that a registry builds checks its own options. These values have no such type, and a wrong one comes up within
mmengine or torch, often only after the data were read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from mmengine.config import Config
from torch.utils.data import DataLoader

from rebnn_mm.checks import is_number
from rebnn_mm.errors import UserError, unknown_name
from rebnn_mm.optim import check_paramwise

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


class Kind(NamedTuple):
    """What a value must be, in words, and whether one is it."""

    words: str
    fits: Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
    return is_number(value) and value == int(value)  # mmengine takes max_iters=1e5


_DICT = Kind("a dict", lambda value: isinstance(value, Mapping))
_LIST = Kind("a list", lambda value: isinstance(value, (list, tuple)))
_DICTS = Kind("a dict or a list", lambda value: isinstance(value, (Mapping, list, tuple)))
_NUMBER = Kind("a number", is_number)
_WHOLE = Kind("a whole number", _is_whole)
_COUNT = Kind("a whole number from 1 on", lambda value: _is_whole(value) and value >= 1)
_WORKERS = Kind("a whole number from 0 on", lambda value: type(value) is int and value >= 0)
_BATCH = Kind("a whole number from 1 on", lambda value: type(value) is int and value >= 1)
_FLAG = Kind("True or False", lambda value: isinstance(value, bool))
_LEVELS = ("CRITICAL", "FATAL", "ERROR", "WARNING", "WARN", "INFO", "DEBUG", "NOTSET")  # those of Python's logging
_LEVEL = Kind(f"a whole number, or one of {', '.join(_LEVELS)}", lambda value: type(value) is int or value in _LEVELS)
_SEED = Kind("a whole number from 0 to 2**32 - 1, or None", lambda value: type(value) is int and 0 <= value < 2**32)

_SCHEDULERS = ("param_scheduler", "param_scheduler.*")  # one, or a list of them
_OF_SCHEDULERS = ("end", "T_max", "eta_min", "gamma", "power", "factor", "start_factor", "end_factor")
# None stands for a default, or for nothing, at each of them; * is every key, or every place of a list
_KINDS = {
    "model": _DICT,
    **dict.fromkeys(LOADERS, _DICT),
    **{f"{loader}.batch_size": _BATCH for loader in LOADERS},
    **{f"{loader}.num_workers": _WORKERS for loader in LOADERS},
    **{f"{loader}.{name}": _FLAG for loader in LOADERS for name in ("drop_last", "persistent_workers")},
    **dict.fromkeys(("train_cfg", "val_cfg", "test_cfg", "randomness", "env_cfg"), _DICT),
    **{f"train_cfg.{name}": _COUNT for name in ("max_epochs", "max_iters", "val_interval")},
    "train_cfg.val_begin": _WHOLE,
    "optim_wrapper": _DICT,
    "optim_wrapper.optimizer": _DICT,
    "optim_wrapper.clip_grad": _DICT,
    "optim_wrapper.paramwise_cfg": _DICT,
    **{f"optim_wrapper.optimizer.{name}": _NUMBER for name in ("lr", "weight_decay", "momentum")},
    "param_scheduler": _DICTS,
    **{f"{place}.begin": _WHOLE for place in _SCHEDULERS},
    **{f"{place}.{name}": _NUMBER for place in _SCHEDULERS for name in _OF_SCHEDULERS},
    "default_hooks": _DICT,
    "default_hooks.*": _DICT,
    "default_hooks.*.interval": _WHOLE,
    "default_hooks.*.max_keep_ckpts": _WHOLE,
    "custom_hooks": _LIST,
    "custom_hooks.*": _DICT,
    "randomness.seed": _SEED,
    "log_level": _LEVEL,
}
# what the runner takes out of a loader's dict before torch's DataLoader gets the rest
_RUNNERS_OWN = {"num_batch_per_epoch", "disable_subprocess_warning"}
LOADER_NAMES = frozenset(inspect.signature(DataLoader).parameters) | _RUNNERS_OWN
RANDOMNESS_NAMES = frozenset({"seed", "diff_rank_seed", "deterministic"})


def check_values(cfg: Config) -> None:
    """Refuse values of another kind than the runner can use, and names where it refuses or ignores unknown ones.

    Raises:
        UserError: Which value, what came, and what is allowed.
    """
    parts = {name: cfg[name] for name in cfg}
    for pattern, kind in _KINDS.items():
        for place, value in _found(parts, pattern.split(".")):
            if not kind.fits(value):
                raise UserError(f"{place}={value!r}: {kind.words} is needed")
    for loader in LOADERS:
        _check_names(cfg, loader, LOADER_NAMES)
    _check_names(cfg, "randomness", RANDOMNESS_NAMES)
    _check_paramwise(cfg.get("optim_wrapper") or {})


def _found(part: Any, names: list[str], place: str = "") -> Iterator[tuple[str, Any]]:
    """Values at a dotted place, with the place in words; where a part of it is absent or None there are none."""
    if not names:
        yield place.removeprefix("."), part
        return
    items = part.items() if isinstance(part, Mapping) else enumerate(part) if isinstance(part, (list, tuple)) else ()
    for name, value in list(items):
        if value is not None and names[0] in ("*", str(name)):
            yield from _found(value, names[1:], f"{place}.{name}")


def _check_names(cfg: Config, place: str, known: frozenset[str]) -> None:
    for name in cfg.get(place) or ():
        if name not in known:
            raise unknown_name(place, name, known)


def _check_paramwise(wrapper: Mapping[str, Any]) -> None:
    """Names in ``paramwise_cfg``: all of them for our constructor; of mmengine's, whether it is asked for ours."""
    constructor = wrapper.get("constructor") or "DefaultOptimWrapperConstructor"
    name = str(getattr(constructor, "__name__", constructor)).split(".")[-1]
    paramwise = wrapper.get("paramwise_cfg") or {}
    if name == "LatentWeightConstructor":
        check_paramwise(paramwise)
    elif name == "DefaultOptimWrapperConstructor" and "latent_lr_mult" in paramwise:
        raise UserError(
            "optim_wrapper.paramwise_cfg.latent_lr_mult is read by one constructor alone: set "
            "optim_wrapper.constructor='LatentWeightConstructor'"
        )
