"""A two-stage detector of mmdet as two networks: pixels -> candidates for proposals, regions -> those for boxes."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.models.dense_heads.rpn_head import RPNHead
from torch import Tensor, nn

from rebnn_mm.errors import UserError
from rebnn_mm.integrations.detection.dense_boxes import DenseBoxes, check_nms, moved_apart
from rebnn_mm.integrations.regions import RegionHead, check_regions

_STEPS = ("predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")


class Proposals(DenseBoxes):
    """Images of one size -> decoded boxes with scores, as mmdet's RPN has them, and the maps that regions lie on."""

    @staticmethod
    def head_of(detector: Any) -> Any:
        """The RPN's head, checked: mmdet's own decoding and plain suppression."""
        check_regions(detector, "the ONNX export")
        head = detector.rpn_head
        if any(getattr(type(head), step) is not getattr(RPNHead, step, None) for step in _STEPS):
            raise UserError(f"{type(head).__name__} makes proposals in a way of its own: export the backbone and neck")
        check_nms(head.test_cfg.nms, type(detector).__name__)
        check_nms(detector.roi_head.test_cfg.nms, type(detector).__name__)
        return head

    def __init__(self, detector: Any, *options: Any) -> None:
        super().__init__(detector, *options)
        self.count = int(detector.roi_head.bbox_roi_extractor.num_inputs)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(1, C, H, W), RGB, 0 to 255 -> boxes (1, M, 4), the same moved apart by level, scores (1, M), maps."""
        features = self.features(images)
        levels = self.levels(features)
        boxes, scores, _ = (torch.cat(parts) for parts in zip(*levels, strict=True))
        groups = torch.cat([torch.full_like(found[2], index) for index, found in enumerate(levels)])
        return (boxes[None], moved_apart(boxes, groups)[None], scores[None], *features[: self.count])


class RegionBoxes(nn.Module):
    """Regions -> boxes with scores and labels, one a class, as mmdet's ``BBoxHead`` decodes them.

    Candidates with a score of ``score_thr`` or less have the score -1.

    Args:
        detector: One that :class:`Proposals` takes.
        size: Height and width of the images.

    Attributes:
        iou_threshold, max_boxes: For the suppression that is left to do.
    """

    corner: Tensor

    def __init__(self, detector: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.head, self.cfg = RegionHead(detector), detector.roi_head.test_cfg
        self.register_buffer("corner", torch.tensor([size[1], size[0]] * 2, dtype=torch.float32))
        self.iou_threshold, self.max_boxes = float(self.cfg.nms.get("iou_threshold", 0.5)), int(self.cfg.max_per_img)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a region."""
        return self.head.shape

    def forward(self, x: Tensor, regions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Regions as averaged maps, (K, C, h, w), and as (K, 4) boxes -> what :class:`DenseBoxes` gives, M of them."""
        head, number = self.head.bbox_head, self.head.bbox_head.num_classes
        logits, deltas = self.head(x)
        scores = logits.softmax(-1)[:, :number].reshape(-1)
        boxed = 1 if head.reg_class_agnostic else number
        priors = regions[:, None].expand(-1, boxed, 4).reshape(-1, 4)
        boxes = head.bbox_coder.decode(priors, deltas.reshape(-1, head.bbox_coder.encode_size))
        boxes = torch.minimum(boxes.clamp(min=0), self.corner)
        boxes = boxes.reshape(-1, boxed, 4).expand(-1, number, 4).reshape(-1, 4)
        labels = torch.arange(number)[None].expand(regions.shape[0], number).reshape(-1)
        scores = torch.where(scores > self.cfg.score_thr, scores, -torch.ones_like(scores))
        return boxes[None], moved_apart(boxes, labels)[None], scores[None], labels[None]
