"""The config type ``Binarized``."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS
from torch import nn

from rebnn_mm.convert import rule


@MODELS.register_module()
def Binarized(base: str | type, binarize: dict[str, Any] | None = None, **cfg: Any) -> nn.Module:
    """Build the model ``base`` from the other keys and make it 1-bit; for use as ``type`` in a config.

    ``model=dict(type='Binarized', base='FasterRCNN', binarize=dict(preset='detector'), backbone=...)``
    is the stock detector: keys (``model.backbone.depth``) and checkpoint names stay where they were.
    Components work likewise: ``rpn_head=dict(type='Binarized', base='RPNHead', binarize=dict(...), ...)``.

    Args:
        base: Registered name; looked up from the current default scope, or as ``'mmdet.RPNHead'``. Or the class.
        binarize: Arguments of :func:`rebnn_mm.convert.binarize`; None leaves the model real-valued.
        cfg: All other keys, for ``base``.
    """
    model = MODELS.build(dict(type=base, **cfg))
    if binarize is not None:
        rule.binarize(model, **binarize)
    return model
