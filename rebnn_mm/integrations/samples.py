"""The data sample that mmdet and mmpretrain want beside an image that no data set has listed."""

from __future__ import annotations

from typing import Any


def data_sample(scope: str, shape: tuple[int, ...]) -> Any:
    """A sample for an image of ``shape`` (H, W) that was neither resized nor padded.

    Args:
        scope: ``'mmdet'`` or ``'mmpretrain'``.
        shape: (H, W) in pixels.
    """
    if scope == "mmdet":
        from mmdet.structures import DetDataSample as Sample
    else:
        from mmpretrain.structures import DataSample as Sample
    return Sample(metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0), img_id=0))
