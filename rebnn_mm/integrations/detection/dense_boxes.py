"""A head of mmdet on levels of maps as one network: pixels -> candidates for non-maximum suppression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from torch import Tensor, nn

from rebnn_mm.deploy.file.card import Preprocessing
from rebnn_mm.errors import UserError

# what a head must leave to mmdet's base class, so that the steps here are its own
_STEPS = ("predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")


class DenseBoxes(nn.Module):
    """Images of one size -> decoded boxes with scores and labels, as mmdet's base class of one-stage heads has them.

    Candidates are the ``nms_pre`` best of each level. What mmdet filters out (scores below ``score_thr``, boxes smaller
    than ``min_bbox_size``) has the score -1.

    Args:
        detector: An mmdet model, trained or packed.
        preprocessing: What its data preprocessor does.
        size: Height and width of the images.

    Attributes:
        iou_threshold, max_boxes: For the suppression that is left to do.

    Raises:
        UserError: A model that is no one-stage detector, whose head decodes in another way, or whose suppression is
            another one than the plain one.
    """

    mean: Tensor
    std: Tensor
    corner: Tensor

    def __init__(self, detector: Any, preprocessing: Preprocessing, size: tuple[int, int]) -> None:
        super().__init__()
        head = self.head_of(detector)
        self.backbone, self.neck, self.bbox_head = detector.backbone, detector.neck, head
        self.size, self.flips = size, preprocessing.channel_order == "bgr"
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(-1, 1, 1))
        self.register_buffer("corner", torch.tensor([size[1], size[0]] * 2, dtype=torch.float32))
        channels = len(preprocessing.mean) or 3
        with torch.no_grad():
            maps = self.eval().bbox_head(self._features(torch.zeros(1, channels, *size)))
        shapes = [level.shape[-2:] for level in maps[0]]
        for index, priors in enumerate(head.prior_generator.grid_priors(shapes, device="cpu")):
            self.register_buffer(f"priors_{index}", priors)
        cfg = head.test_cfg
        self.iou_threshold = float(cfg.nms.get("iou_threshold", 0.5))
        self.max_boxes = int(cfg.get("max_per_img", 100))

    @staticmethod
    def head_of(detector: Any) -> Any:
        """The head, checked: one that is decoded as here."""
        return dense_head(detector)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Candidates of one image.

        Args:
            images: (1, C, H, W) float, RGB, 0 to 255.

        Returns:
            Boxes (1, M, 4), left, top, right, bottom in pixels; the same, moved apart by class; scores (1, M); and
            labels (1, M).
        """
        levels = self.levels(self.features(images))
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*levels, strict=True))
        return boxes[None], moved_apart(boxes, labels)[None], scores[None], labels[None]

    def features(self, images: Tensor) -> Any:
        """Levels of the neck, of images as they come."""
        x = images.flip(1) if self.flips else images
        return self._features((x - self.mean) / self.std if self.mean.numel() else x)

    def levels(self, features: Any) -> list[tuple[Tensor, ...]]:
        """Boxes, scores and labels of the best candidates of each level."""
        return [self._level(index, *maps) for index, maps in enumerate(zip(*self.bbox_head(features), strict=True))]

    def _features(self, x: Tensor) -> Any:
        return self.neck(self.backbone(x))

    def _level(self, index: int, classes: Tensor, deltas: Tensor, factors: Tensor | None = None) -> tuple[Tensor, ...]:
        """Boxes, scores and labels of the best candidates of one level."""
        head, cfg = self.bbox_head, self.bbox_head.test_cfg
        logits = classes[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels)
        scores = logits.sigmoid() if head.use_sigmoid_cls else logits.softmax(-1)[:, :-1]
        number = scores.shape[1]
        most = cfg.get("nms_pre", -1)
        count = scores.numel() if most <= 0 else min(most, scores.numel())
        best, places = scores.flatten().topk(count)
        rows, labels = places // number, places % number
        deltas = deltas[0].permute(1, 2, 0).reshape(-1, head.bbox_coder.encode_size)[rows]
        priors = getattr(self, f"priors_{index}")[rows]
        boxes = torch.minimum(head.bbox_coder.decode(priors, deltas).clamp(min=0), self.corner)
        kept = best > cfg.get("score_thr", 0)
        if cfg.get("min_bbox_size", -1) >= 0:
            sides = boxes[:, 2:] - boxes[:, :2]
            kept = torch.logical_and(kept, sides.amin(1) > cfg.min_bbox_size)
        if factors is not None:
            best = best * factors[0].permute(1, 2, 0).reshape(-1).sigmoid()[rows]
        return boxes, torch.where(kept, best, -torch.ones_like(best)), labels


def moved_apart(boxes: Tensor, groups: Tensor) -> Tensor:
    """(M, 4) boxes, those of different groups, (M,), so far from each other that they do not overlap."""
    return boxes + (groups.to(boxes.dtype) * (boxes.max() + 1))[:, None]


def dense_head(detector: Any) -> Any:
    """The head of a one-stage detector, if it leaves decoding to mmdet's base class and suppression is the plain one.

    Raises:
        UserError: It is another detector.
    """
    name, head = type(detector).__name__, getattr(detector, "bbox_head", None)
    if not isinstance(head, BaseDenseHead) or not isinstance(getattr(detector, "neck", None), nn.Module):
        raise UserError(
            f"{name} is no one-stage detector with a neck, whose boxes could be part of the file: export its "
            "backbone and neck, with --part or without --size"
        )
    own = [step for step in _STEPS if getattr(type(head), step) is not getattr(BaseDenseHead, step)]
    if own or getattr(head.loss_cls, "custom_cls_channels", False):
        raise UserError(f"{type(head).__name__} decodes its boxes in a way of its own: export the backbone and neck")
    check_nms(head.test_cfg.nms, name)
    return head


def check_nms(nms: Mapping[str, Any], name: str) -> None:
    """Raise UserError unless a test_cfg's ``nms`` is the plain one, of the boxes of each class with each other."""
    kind = nms.get("type", "nms")
    more = sorted(set(nms) - {"type", "iou_threshold", "split_thr", "class_agnostic"})
    if kind != "nms" or nms.get("class_agnostic") or more:
        asked = repr(kind) if kind != "nms" else f"with {', '.join(more)}" if more else "over all classes at once"
        raise UserError(
            f"{name} asks for non-maximum suppression {asked}; known is the plain one, in each class, by "
            "iou_threshold: change test_cfg.nms, or export the backbone and neck"
        )
