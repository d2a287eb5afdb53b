"""rebnn_mm: Resilient Binary Neural Networks for MMDetection and MMPretrain.

Importing the package registers its layers, backbones and hooks in mmengine's registries; configs
do so through ``custom_imports``. It needs torch and mmengine only: what adapts to mmdet and
mmpretrain is in :mod:`rebnn_mm.integrations`. Where mmengine is not installed there is nothing to
register with: :mod:`rebnn_mm.deploy` still loads and runs exported classifiers, with torch and numpy alone.

Where it is imported before torch, and the user has not chosen otherwise, OpenMP's threads rest while they wait for each
other (:mod:`rebnn_mm.busy_machine`).
"""

from importlib.util import find_spec

from rebnn_mm.busy_machine import rest_while_waiting

rest_while_waiting()  # torch is imported below, and reads the environment once

if find_spec("mmengine") is not None:
    from rebnn_mm import backbones, convert, estimators, hooks, layers

__version__ = "0.1.0"
__all__ = ["__version__", "backbones", "convert", "estimators", "hooks", "layers"]
