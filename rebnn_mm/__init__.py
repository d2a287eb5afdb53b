"""rebnn_mm: Resilient Binary Neural Networks for MMDetection and MMPretrain.

Importing the package registers its layers, backbones and hooks in mmengine's registries; configs
do so through ``custom_imports``. It needs torch and mmengine only: what adapts to mmdet and
mmpretrain is in :mod:`rebnn_mm.integrations`. Where mmengine is not installed there is nothing to
register with: :mod:`rebnn_mm.deploy` still loads and runs exported classifiers, with torch and numpy alone.

Where it is imported before torch, and the user has not chosen otherwise, OpenMP's threads rest while they wait for each
other (:mod:`rebnn_mm.busy_machine`).
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rebnn_mm.builders import set_config_builder
from rebnn_mm.busy_machine import rest_while_waiting
from rebnn_mm.moved import find_old_names
from rebnn_mm.native import set_kernels

find_old_names()
rest_while_waiting()  # torch is imported below, and reads the environment once


def _build_in_its_library(path: Path, exact: bool) -> Any:
    """A detector's file: mmdet is imported when one is loaded."""
    from rebnn_mm.integrations.packed import load_packed_model

    return load_packed_model(path, exact=exact)


def _training_kernels() -> Any:
    """Layers that train are imported before the kernels, and ask for them when they run."""
    from rebnn_mm.deploy.training import training_kernels

    return training_kernels()


set_config_builder(_build_in_its_library)
set_kernels(_training_kernels)

if find_spec("mmengine") is not None:
    from rebnn_mm import backbones, convert, estimators, hooks, layers, optim

__version__ = "0.1.0"
__all__ = ["__version__", "backbones", "convert", "estimators", "hooks", "layers", "optim"]
