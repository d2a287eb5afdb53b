"""Old dotted names of modules, which work for one more release and warn.

They stand in users' configs (``custom_imports``), in scripts and in the configs that ``.rebnn`` files carry. An old
name gives the new module itself, not a copy, so that nothing is registered twice.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_IMAGES, _DETECTION = "rebnn_mm.integrations.images", "rebnn_mm.integrations.detection"
_CALLED_BY_TOOLS = (
    *("benchmark", "demo_data", "export", "glue", "heads", "inference", "inspection", "launch", "precheck"),
    *("reactnet", "stages"),
)
MOVED = {
    "rebnn_mm.bits": "rebnn_mm.files.bits",
    "rebnn_mm.deploy.atomic": "rebnn_mm.files.atomic",
    "rebnn_mm.distill.similarity": "rebnn_mm.distill.losses",
    "rebnn_mm.deploy.timing": "rebnn_mm.workflows.timing",
    "rebnn_mm.oscillation_file": "rebnn_mm.files.oscillation",
    "rebnn_mm.integrations.boxes": f"{_DETECTION}.boxes",
    "rebnn_mm.integrations.coco_file": f"{_DETECTION}.coco_file",
    "rebnn_mm.integrations.data": f"{_IMAGES}.loading",
    "rebnn_mm.integrations.detection_metrics": f"{_DETECTION}.metrics",
    "rebnn_mm.integrations.distill_bert": "rebnn_mm.integrations.bert.distill",
    "rebnn_mm.integrations.distill_classification": "rebnn_mm.integrations.classification.distill",
    "rebnn_mm.integrations.distill_detection": f"{_DETECTION}.distill",
    "rebnn_mm.integrations.image_file": f"{_IMAGES}.header",
    "rebnn_mm.integrations.picture_size": f"{_IMAGES}.size",
    "rebnn_mm.integrations.pictures": f"{_IMAGES}.pictures",
    "rebnn_mm.integrations.voc_file": f"{_DETECTION}.voc_file",
    **{f"rebnn_mm.integrations.{name}": f"rebnn_mm.workflows.{name}" for name in _CALLED_BY_TOOLS},
}
"""Old name of a module -> new name."""

LEFT = {
    "rebnn_mm.deploy.benchmark": "python benchmarks/layers.py",
    "rebnn_mm.integrations.suite": "python benchmarks/suite.py",
}
"""Modules that are no part of the package any more -> the command of a checkout that does the same."""


class OldNames(MetaPathFinder, Loader):
    """Finds the modules of :data:`MOVED` under their old names, where nothing else has found them."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The place of a module that has moved.

        Raises:
            ModuleNotFoundError: It has left the package; the sentence names the command.
        """
        if name in LEFT:
            raise ModuleNotFoundError(f"{name} is no part of the package any more: in a checkout, {LEFT[name]}")
        return ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module under its new name."""
        _warn(spec.name, MOVED[spec.name])
        module = import_module(MOVED[spec.name])
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It ran when it was imported; Python has put the old name's spec into it, which goes again."""
        assert module.__spec__ is not None, "set by Python from find_spec"
        module.__spec__ = self._specs.pop(module.__spec__.name)


def find_old_names() -> None:
    """Let ``import`` find the modules of :data:`MOVED`, once a process."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())


def names_of(new: str, old: str) -> Callable[[str], Any]:
    """A package's ``__getattr__`` where it has the name of a module that moved into it.

    Args:
        new: The module that has the names now.
        old: The package.
    """

    def get(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(new), name)
        except AttributeError:
            raise AttributeError(f"module {old!r} has no attribute {name!r}") from None
        _warn(f"{old}.{name}", f"{new}.{name}")
        return value

    return get


def _warn(old: str, new: str) -> None:
    text = f"{old} is now {new}; the old name goes with the next release"
    warnings.warn(text, DeprecationWarning, stacklevel=3)
