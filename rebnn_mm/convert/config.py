"""The config type ``Binarized``."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS
from torch import nn

from rebnn_mm.convert import rule
from rebnn_mm.convert.stock import expand_stock


@MODELS.register_module()
def Binarized(base: str | type, binarize: dict[str, Any] | None = None, **cfg: Any) -> nn.Module:
    """Build the model ``base`` from the other keys and make it 1-bit; for use as ``type`` in a config.

    ``model=dict(type='Binarized', base='FasterRCNN', binarize=dict(preset='detector'), backbone=...)``
    is the stock detector: keys (``model.backbone.depth``) and checkpoint names stay where they were.
    Components work likewise: ``rpn_head=dict(type='Binarized', base='RPNHead', binarize=dict(...), ...)``.

    ``base='mmdet::yolox/yolox_s_8xb8-300e_coco.py'`` takes the model of a config that a library ships; the other keys
    change it, as in a config that inherits: ``bbox_head=dict(num_classes=3)``.

    Args:
        base: Registered name; looked up from the current default scope, or as ``'mmdet.RPNHead'``. Or the class. Or a
            library's config.
        binarize: Arguments of :func:`rebnn_mm.convert.binarize`; None leaves the model real-valued.
        cfg: All other keys, for ``base``.

    Raises:
        ValueError: ``base`` is a library's config that is not there.
    """
    cfg = expand_stock(dict(cfg, base=base))
    cfg["type"] = cfg.pop("base")
    model = MODELS.build(cfg)
    if binarize is not None:
        rule.binarize(model, **binarize)
    return model
