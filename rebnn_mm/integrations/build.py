"""Config file -> model ready for inspection, for mmdet, mmpretrain and BERT alike."""

from __future__ import annotations

import copy
import inspect
import re
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from rebnn_mm.errors import UserError
from rebnn_mm.integrations.config import parse_config, scope_of
from rebnn_mm.integrations.values import check_values
from rebnn_mm.moved import names_of

T = TypeVar("T")
__getattr__ = names_of("rebnn_mm.integrations.config", __name__)

# annotations of these words alone leave no place for a text
_NO_TEXTS = frozenset(
    "int float bool list tuple dict List Tuple Dict Sequence Tensor Optional Union None NoneType "
    "typing collections abc torch".split()
)
# where a type is looked up, and a KeyError means that there is none of this name
_REGISTRIES = ("mmengine.registry.", "mmcv.cnn.bricks.")


def read_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file, apply ``--cfg-options`` and switch to its scope.

    Raises:
        FileNotFoundError, ValueError: As :func:`rebnn_mm.integrations.config.parse_config` and
            :func:`rebnn_mm.integrations.values.check_values`.
    """
    cfg = parse_config(path, options)
    register_scope(scope_of(cfg))
    check_values(cfg)
    return cfg


def build_model(cfg: Config, device: str = "cpu") -> nn.Module:
    """The config's model in eval mode, its weights neither initialised nor downloaded.

    Raises:
        ValueError: A type in the config is not registered, or ``device`` is unknown or absent here.
    """
    model_cfg = copy.deepcopy(cfg.model)
    if cfg.get("data_preprocessor") is not None:  # mmpretrain's configs keep it at the top; the runner does the same
        model_cfg.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    for part in (model_cfg, model_cfg.get("backbone") or {}):
        part.pop("pretrained", None)
    init_default_scope(scope_of(cfg))  # another config may have been read in between
    model = building(lambda: MODELS.build(model_cfg))
    model.to(_usable(device))
    model.eval()  # not chained: that of mmdet's distillers returns nothing
    return model


def _usable(device: str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch's words for unknown and absent ones
        line = str(error).splitlines()[0]
        raise UserError(f"device {device!r} cannot be used: {line}; cpu always works") from None


def building(build: Callable[[], T]) -> T:
    """Call ``build``, which builds from a config; a type that no registry has, or does not take its options, is said.

    Raises:
        ValueError: The config names a type that is not registered, or an option that a type does not have, or gives a
            text where a type asks for a number, a list or a dict.
    """
    try:
        return build()
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AssertionError, AttributeError) as error:
        told = _in_words(error)
        if told is error:  # with the cause that it has
            raise
        raise told from error


def _in_words(error: Exception) -> Exception:
    """A sentence for what the config's author can mend; any other error is itself."""
    if isinstance(error, KeyError):
        return _unknown_type(error)
    return _wrong_options(error) if isinstance(error, TypeError) else _misplaced_text(error)


def _unknown_type(error: KeyError) -> Exception:
    """A sentence if a registry raised ``error`` as it lacks a type; any other KeyError is itself."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    # a KeyError of a constructor may speak of a registry, too: what counts is who raised it
    raised_in = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    if not raised_in.startswith(_REGISTRIES) or "registry" not in str(error):
        return error
    line = str(error.args[0]).split(". ")[0]
    return UserError(f"the config cannot be built: {line}; check the name, and custom_imports")


def _wrong_options(error: TypeError) -> Exception:
    """A sentence if the call of a registry was refused, as of an option that a type does not have; else itself.

    What goes wrong within a constructor is its own fault, but for options that it hands on to its base class.
    """
    calls, innermost = _registry_calls(error)
    if not calls:
        return error
    given = calls[-1].f_locals.get("args")
    kind = getattr(calls[-1].f_locals.get("obj_cls"), "__name__", None)
    text = str(error).splitlines()[0]
    unknown = re.search(r"unexpected keyword argument '(\w+)'", text)
    handed_on = unknown is not None and isinstance(given, dict) and unknown[1] in given
    if not handed_on and calls[-1] is not innermost:
        return _misplaced_text(error)
    what = f"type={kind!r}" if kind else "a part of it"
    return UserError(f"the config cannot be built: {what}: {text.rpartition('__init__() ')[2]}; check its options")


def _registry_calls(error: BaseException) -> tuple[list[FrameType], FrameType | None]:
    """Frames of the registries that were building when ``error`` was raised, and the frame that raised it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    calls = [frame for frame in frames if frame.f_code.co_name == "build_from_cfg"]
    ours = [frame for frame in calls if frame.f_globals["__name__"].startswith(_REGISTRIES)]
    return ours, frames[-1] if frames else None


def _misplaced_text(error: Exception) -> Exception:
    """A sentence if a type that was being built got a text for what it says to be none; any other error is itself.

    This is what ``--cfg-options KEY=abc`` makes of a number. The innermost type is asked first.
    """
    for call in reversed(_registry_calls(error)[0]):
        kind, given = call.f_locals.get("obj_cls"), call.f_locals.get("args") or {}
        for name, parameter in _parameters(kind).items():
            if isinstance(given.get(name), str) and (wanted := _no_text(parameter)):
                what = f"type={getattr(kind, '__name__', kind)!r}: {type(error).__name__}: {error}"
                perhaps = f"perhaps since {name}={given[name]!r} is a text, {wanted} is needed"
                return UserError(f"the config cannot be built: {what}; {perhaps}")
    return error


def _parameters(kind: Any) -> dict[str, inspect.Parameter]:
    """Of a function, or of a class and those that it hands its options on to."""
    found: dict[str, inspect.Parameter] = {}
    for each in [base.__init__ for base in reversed(kind.__mro__)] if inspect.isclass(kind) else [kind]:
        with suppress(ValueError, TypeError):  # some of C have no signature
            found |= inspect.signature(each).parameters
    return found


def _no_text(parameter: inspect.Parameter) -> str | None:
    """What a parameter is for, in words, or None if a text may be right for it."""
    kind, default = parameter.annotation, parameter.default
    if isinstance(default, str):
        return None
    if kind is not parameter.empty:
        words = getattr(kind, "__name__", str(kind)) if inspect.isclass(kind) else str(kind)
        return words if set(re.findall(r"[A-Za-z_]\w*", words)) <= _NO_TEXTS else None
    return f"a number as its default, {default}," if type(default) in (int, float) else None


def register_scope(scope: str) -> None:
    """Import the library behind ``scope`` and make it the default of all registries."""
    if scope == "mmdet":
        from mmdet.utils import register_all_modules

        register_all_modules(init_default_scope=False)
    elif scope == "mmpretrain":
        from mmpretrain.utils import register_all_modules

        register_all_modules(init_default_scope=False)
    else:
        from rebnn_mm.integrations import bert  # noqa: F401  # registers itself
    init_default_scope(scope)
