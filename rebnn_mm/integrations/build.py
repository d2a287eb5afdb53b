"""Config file -> model ready for inspection, for mmdet, mmpretrain and BERT alike."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from rebnn_mm.errors import MissingFileError, UserError

# mmengine: BERT, whose parts are all registered at the root
SCOPES = ("mmdet", "mmpretrain", "mmengine")
# a new value of one of these, given with --cfg-options, reaches every part of the config that has it
_SHARED = ("task", "vocab_file")


def read_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Read a config file, apply ``--cfg-options`` and switch to its scope.

    Raises:
        FileNotFoundError: ``path`` is no file.
        ValueError: It does not parse, imports what is not installed, or is for another library than :data:`SCOPES`.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"config {path} is not a file: give one from configs/, or a path of your own")
    try:
        cfg = Config.fromfile(path)
    except (SyntaxError, OSError, KeyError) as error:
        raise UserError(f"config {path} cannot be read: {error}") from error
    except ImportError as error:
        first: BaseException = error  # mmengine wraps it twice, in pages of text
        while first.__context__ is not None:
            first = first.__context__
        raise UserError(
            f"config {path} imports what is not installed: {first}; detectors and classifiers need "
            "pip install rebnn_mm[mm], BERT needs rebnn_mm[bert]"
        ) from error
    if options:
        _override(cfg, options)
    if scope_of(cfg) not in SCOPES:
        raise UserError(f"config {path}: default_scope={cfg.get('default_scope')!r}, allowed are {', '.join(SCOPES)}")
    if "model" not in cfg:
        raise UserError(f"config {path} has no model: give a leaf config, not one of _base_")
    _register(scope_of(cfg))
    return cfg


def scope_of(cfg: Config) -> str:
    """One of :data:`SCOPES`, from ``default_scope``."""
    return str(cfg.get("default_scope"))


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
    try:
        model = MODELS.build(model_cfg)
    except KeyError as error:
        raise name_unknown_type(error) from error
    try:
        return model.to(torch.device(device)).eval()
    except (RuntimeError, AssertionError) as error:
        line = str(error).splitlines()[0]
        raise UserError(f"device {device!r} cannot be used: {line}; cpu always works") from None


def name_unknown_type(error: KeyError) -> Exception:
    """What to raise for a KeyError while building from a config: a sentence if a registry lacks a type, else itself."""
    if "registry" not in str(error):
        return error
    line = str(error.args[0]).split(". ")[0]
    return UserError(f"the config cannot be built: {line}; check the name, and custom_imports")


def _override(cfg: Config, options: dict[str, Any]) -> None:
    """Merge ``--cfg-options``; a new ``data_root`` reaches every path that the config made from the old one.

    Without this the option would be taken and have no effect, as configs join paths while they are read.
    """
    before = cfg.get("data_root")
    cfg.merge_from_dict(options)
    for name in set(_SHARED) & set(options):
        for key in list(cfg.keys()):
            cfg[key] = _renamed(cfg[key], name, options[name])
    after = options.get("data_root")
    if after is None:
        return
    if not isinstance(before, str):
        raise UserError(
            f"--cfg-options data_root={after}: this config has no data_root of its own; set "
            "train_dataloader.dataset.data_root and those of val_dataloader and test_dataloader"
        )
    after = str(after).rstrip("/") + "/" if before.endswith("/") else str(after)
    for key in list(cfg.keys()):
        if key not in options:
            cfg[key] = _moved(cfg[key], before, after)


def _renamed(value: Any, name: str, after: Any) -> Any:
    if isinstance(value, dict):
        return {key: after if key == name else _renamed(item, name, after) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_renamed(item, name, after) for item in value)
    return value


def _moved(value: Any, before: str, after: str) -> Any:
    if isinstance(value, str):
        return after + value.removeprefix(before) if value.startswith(before) else value
    if isinstance(value, dict):
        return {key: _moved(item, before, after) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(item, before, after) for item in value)
    return value


def _register(scope: str) -> None:
    """Import the library behind ``scope`` and make it the default of all registries."""
    if scope == "mmdet":
        from mmdet.utils import register_all_modules

        register_all_modules(init_default_scope=False)
    elif scope == "mmpretrain":
        from mmpretrain.utils import register_all_modules

        register_all_modules(init_default_scope=False)
    else:
        from rebnn_mm.integrations import bert, distill_bert  # noqa: F401  # register themselves
    init_default_scope(scope)
