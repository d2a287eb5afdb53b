"""Config file -> mmengine's ``Config``, with ``--cfg-options`` in it; no library is imported that it does not name."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.logging import print_log
from mmengine.utils import import_modules_from_strings

from rebnn_mm.convert.stock import expand_stock
from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.home import home
from rebnn_mm.moved import MOVED

# mmengine: BERT, whose parts are all registered at the root
SCOPES = ("mmdet", "mmpretrain", "mmengine")
# a new value of one of these, given with --cfg-options, reaches every part of the config that has it
_SHARED = ("task", "vocab_file")


def parse_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file, import what its ``custom_imports`` name, apply ``--cfg-options``.

    Raises:
        FileNotFoundError: ``path`` is no file.
        ValueError: It does not parse, imports what is not installed, or is for another library than :data:`SCOPES`.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"config {path} is not a file: give one from configs/, or a path of your own")
    cfg = read_lines(path, f"config {path}", import_custom_modules=False)
    _import_modules(path, cfg)
    if "model" in cfg:
        cfg.model = expand_stock(cfg.model)
    apply_options(cfg, options or {})
    if scope_of(cfg) not in SCOPES:
        raise UserError(f"config {path}: default_scope={cfg.get('default_scope')!r}, allowed are {', '.join(SCOPES)}")
    if "model" not in cfg:
        raise UserError(f"config {path} has no model: give a leaf config, not one of _base_")
    return cfg


def read_lines(path: Path, what: str, **how: Any) -> Config:
    """A file in the form of configs, ``how`` as for mmengine's ``Config.fromfile``.

    Raises:
        UserError: It is no Python, or one of its lines does not run; ``what`` names it in the sentence.
    """
    try:
        return Config.fromfile(path, **how)
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at {error.start}"
        raise UserError(
            f"{what} cannot be read: it, or one of its _base_ files, is not UTF-8 ({byte}); save it as UTF-8"
        ) from error
    except Exception as error:  # no more than mmengine's parser and the file's own lines run here
        raise UserError(f"{what} cannot be read: {type(error).__name__}: {error}") from error


def find_config(path: str | Path) -> Path:
    """The file that a config names another one by: from the working directory, or else from where ``configs/`` is."""
    shipped = home() / path
    return shipped if not Path(path).is_file() and shipped.is_file() else Path(path)


def scope_of(cfg: Config) -> str:
    """One of :data:`SCOPES`, from ``default_scope``."""
    return str(cfg.get("default_scope"))


def read_words(words: Sequence[str] | None, option: str = "--cfg-options") -> dict[str, Any]:
    """``KEY=VALUE`` words of a command line, as mmengine reads them: numbers, True, None, lists, or else a text.

    Args:
        words: None is none.
        option: Named in the error.

    Raises:
        UserError: A word without key or ``=``, or with brackets that do not close.
    """
    read = argparse.Namespace()
    action = DictAction([option], "values")
    for word in words or ():
        if not word.partition("=")[0] or "=" not in word:
            raise UserError(f"{option} {word}: KEY=VALUE is needed, without spaces around =")
        try:
            action(argparse.ArgumentParser(), read, [word])
        except AssertionError as error:
            raise UserError(f"{option} {word}: {error}") from error
    return getattr(read, "values", {})


def apply_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Merge ``--cfg-options`` into ``cfg``, as every tool does.

    A new ``data_root`` reaches every path that the config made from its old one, and a new ``task`` or ``vocab_file``
    every part that has the config's old one: configs join paths and copy values while they are read, so the option
    alone would have no effect. This comes first: a value that ``options`` name themselves always holds.

    Raises:
        ValueError: An option has no place in the config, or ``data_root`` is given to a config without one.
    """
    for name in _SHARED:
        if name in options and name in cfg:
            _replace(cfg, lambda key, value, name=name: options[name] if key == name and value == cfg[name] else value)
    if options.get("data_root") is not None:
        _move_data(cfg, str(options["data_root"]))
    for key, value in options.items():
        _warn_if_misspelt(cfg, key)
        try:
            cfg.merge_from_dict({key: value})
        except (KeyError, TypeError, IndexError) as error:  # mmengine's words for a place that the config has not
            raise UserError(f"--cfg-options {key}={value}: the config has no place for it: {error}") from error


def _warn_if_misspelt(cfg: Config, key: str) -> None:
    """Say that an option makes a new key beside one that is almost the same; a new one may be right, as of a type."""
    part: Any = cfg
    for name in key.split("."):
        if not isinstance(part, (Config, dict)):
            return
        if name not in part:
            if near := get_close_matches(name, [str(known) for known in part], n=1, cutoff=0.8):
                text = f"--cfg-options {key}: the config gets a new {name!r}; did you mean {near[0]}?"
                print_log(text, "current", logging.WARNING)
            return
        part = part[name]


def _move_data(cfg: Config, after: str) -> None:
    """Exchange the config's ``data_root`` at the beginning of every path; whole names only, not data/my of data/my2."""
    before = cfg.get("data_root")
    old = before.rstrip("/") if isinstance(before, str) else ""
    if old in ("", "."):
        raise UserError(
            f"--cfg-options data_root={after}: this config has no data_root of its own; set "
            "train_dataloader.dataset.data_root and those of val_dataloader and test_dataloader"
        )
    new = after.rstrip("/")

    def moved(key: Any, value: Any) -> Any:
        if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
            return (new + value[len(old) :]) or "/"
        return value

    _replace(cfg, moved)


def _replace(cfg: Config, change: Callable[[Any, Any], Any]) -> None:
    """Put ``change(key, value)`` for every value of ``cfg``; items of a list have their list's key."""

    def walk(key: Any, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: walk(name, item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(walk(key, item) for item in value)
        return change(key, value)

    for key, value in [(key, walk(key, cfg[key])) for key in cfg]:
        cfg[key] = value


def _import_modules(path: Path, cfg: Config) -> None:
    """What mmengine does with ``custom_imports`` when it reads a config; it says which names of ours are old."""
    custom = cfg.get("custom_imports") or {"imports": []}
    names = custom.get("imports") or [] if isinstance(custom, dict) else None
    if not isinstance(names, (str, list)) or custom.keys() - {"imports", "allow_failed_imports"}:
        raise UserError(f"config {path}: custom_imports={custom!r}: dict(imports=['MODULE', ...]) is needed")
    for name in [names] if isinstance(names, str) else names:
        if name in MOVED:  # Python shows a DeprecationWarning of a module that a library imports to nobody
            text = f"config {path}: write {MOVED[name]} for {name} in custom_imports; the old name goes with the next"
            print_log(f"{text} release", "current", logging.WARNING)
    try:
        import_modules_from_strings(**custom)
    except ImportError as error:
        first: BaseException = error  # mmengine wraps it
        while first.__context__ is not None:
            first = first.__context__
        if not isinstance(first, ModuleNotFoundError) and (getattr(first, "name", None) or "").startswith("rebnn_mm"):
            raise  # a name that one module of ours does not find in another
        raise UserError(
            f"config {path} imports what is not installed: {first}; detectors and classifiers need "
            "pip install rebnn_mm[mm], BERT needs rebnn_mm[bert]"
        ) from error
