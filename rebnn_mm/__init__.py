"""rebnn_mm: Resilient Binary Neural Networks for MMDetection and MMPretrain.

Importing the package registers its layers, backbones and hooks in mmengine's registries; configs
do so through ``custom_imports``. It needs torch and mmengine only: what adapts to mmdet and
mmpretrain is in :mod:`rebnn_mm.integrations`.
"""

from rebnn_mm import backbones, convert, estimators, hooks, layers

__version__ = "0.1.0"
__all__ = ["__version__", "backbones", "convert", "estimators", "hooks", "layers"]
