"""Who builds a ``.rebnn`` file that is no graph as a whole, a detector's: a library that the run-time does not know.

:mod:`rebnn_mm` names the builder, :func:`rebnn_mm.deploy.load_model` asks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Builder = Callable[[Path, bool], Any]
"""Path of a file, and whether the trained model's bits are wanted -> the packed model."""

_builders: list[Builder] = []


def set_config_builder(builder: Builder) -> None:
    """Let ``builder`` build what a file describes by a config; it replaces the one before."""
    _builders[:] = [builder]


def build_from_config(path: Path, exact: bool) -> Any:
    """The packed model of a file that has a config."""
    return _builders[0](path, exact)
