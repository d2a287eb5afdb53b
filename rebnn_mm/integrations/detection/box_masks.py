"""Masks for a data set that has none."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmdet.structures.mask import BitmapMasks


@TRANSFORMS.register_module()
class BoxMasks(BaseTransform):
    """Every box becomes a mask, so that Mask R-CNN trains on data with boxes only.

    Reads ``gt_bboxes`` (n boxes in pixels) and ``img``; writes ``gt_masks``, ``BitmapMasks`` of n x height x width. Its
    place is behind what resizes and flips.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """``results`` with ``gt_masks``; a box of less than a pixel has one."""
        height, width = results["img"].shape[:2]
        boxes = results["gt_bboxes"]
        boxes = getattr(boxes, "tensor", boxes)
        masks = np.zeros((len(boxes), height, width), np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
            mask[round(top) : max(round(bottom), round(top) + 1), round(left) : max(round(right), round(left) + 1)] = 1
        results["gt_masks"] = BitmapMasks(masks, height, width)
        return results
