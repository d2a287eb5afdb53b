"""Boxes as masks."""

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet")

from mmdet.structures.bbox import HorizontalBoxes

from rebnn_mm.integrations.detection import BoxMasks


@pytest.mark.parametrize("boxes", [torch.Tensor, HorizontalBoxes, np.asarray])
def test_a_mask_is_its_box(boxes):
    given = boxes([[1.0, 2.0, 4.0, 5.0], [0.0, 0.0, 0.3, 0.2]])
    masks = BoxMasks()(dict(img=np.zeros((6, 8, 3), np.uint8), gt_bboxes=given))["gt_masks"]
    assert masks.masks.shape == (2, 6, 8)
    assert masks.masks[0].sum() == 9 and masks.masks[0, 2:5, 1:4].all()
    assert masks.masks[1].sum() == 1 and masks.masks[1, 0, 0]  # never empty


def test_no_boxes_are_no_masks():
    masks = BoxMasks()(dict(img=np.zeros((6, 8, 3), np.uint8), gt_bboxes=torch.zeros(0, 4)))["gt_masks"]
    assert masks.masks.shape == (0, 6, 8)
