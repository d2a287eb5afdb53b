"""Old dotted names of modules, which work for one more release and warn.

They stand in users' configs (``custom_imports``), in scripts and in the configs that ``.rebnn`` files carry. An old
name gives the new module itself, not a copy, so that nothing is registered twice.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_IMAGES, _DETECTION = "rebnn_mm.integrations.images", "rebnn_mm.integrations.detection"
_TARGETS = ("executorch", "onnx", "openvino")
_CALLED_BY_TOOLS = (
    *("benchmark", "demo_data", "export", "glue", "heads", "inference", "inspection", "launch", "precheck"),
    *("reactnet", "stages"),
)
MOVED = {
    "rebnn_mm.bits": "rebnn_mm.files.bits",
    "rebnn_mm.deploy.atomic": "rebnn_mm.files.atomic",
    "rebnn_mm.deploy.layer": "rebnn_mm.deploy.operation.spec",
    "rebnn_mm.deploy.ops": "rebnn_mm.deploy.layers.operators",
    "rebnn_mm.deploy.packing": "rebnn_mm.deploy.operation.bits",
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
    **{f"rebnn_mm.deploy.{name}": f"rebnn_mm.deploy.targets.{name}" for name in _TARGETS},
    **{f"rebnn_mm.integrations.{name}": f"rebnn_mm.workflows.{name}" for name in _CALLED_BY_TOOLS},
}
"""Old name of a module or package -> new name; what is in a package has moved with it."""

LEFT = {
    "rebnn_mm.deploy.benchmark": "python benchmarks/layers.py",
    "rebnn_mm.integrations.suite": "python benchmarks/suite.py",
}
"""Modules that are no part of the package any more -> the command of a checkout that does the same."""


class OldNames(MetaPathFinder, Loader):
    """Finds the modules of :data:`MOVED` under their old names.

    It is asked first: Python's own finder would load a module of a moved package a second time, from the folder that
    the package has now.
    """

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The place of a module that has moved.

        Raises:
            ModuleNotFoundError: It has left the package; the sentence names the command.
        """
        if name in LEFT:
            raise ModuleNotFoundError(f"{name} is no part of the package any more: in a checkout, {LEFT[name]}")
        return None if _new_name(name) is None else ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module under its new name."""
        new = _new_name(spec.name)
        assert new is not None, "find_spec has found it"
        module = import_module(new)
        _warn(spec.name, new)
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It ran when it was imported; Python has put the old name's spec into it, which goes again."""
        assert module.__spec__ is not None, "set by Python from find_spec"
        module.__spec__ = self._specs.pop(module.__spec__.name)


def find_old_names() -> None:
    """Let ``import`` find the modules of :data:`MOVED`, once a process."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, OldNames())


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


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` where names in it are others now.

    Args:
        module: Its name.
        names: Old name -> new name.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(f"{module}.{name}", f"{module}.{names[name]}")
        return getattr(import_module(module), names[name])

    return get


def _new_name(old: str) -> str | None:
    """Where the module has gone; None if it is where it was."""
    package, _, rest = old.rpartition(".")
    if old in MOVED or package not in MOVED:
        return MOVED.get(old)
    return f"{MOVED[package]}.{rest}"


def _warn(old: str, new: str) -> None:
    text = f"{old} is now {new}; the old name goes with the next release"
    warnings.warn(text, DeprecationWarning, stacklevel=3)
