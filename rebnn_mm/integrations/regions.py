"""A two-stage detector as an ExecuTorch program of two methods, with what stands between and behind them in the card.

``forward`` takes an image and gives the maps of the RPN head (scores of all levels, deltas of all levels), then the
levels that regions are read from. ``rois`` takes regions, averaged into one size each, and gives (scores, deltas). The
C++ library makes proposals of the maps, reads regions, and makes boxes of the results.

The card's ``detector`` is that of a one-stage detector of one class (:mod:`rebnn_mm.integrations.executorch`), which
tells how proposals are made, and its ``regions`` is::

    strides, height, width, samples, finest_scale   of the extractor: pixels of a level, bins, samples in a bin (0: as
                                                    many as pixels), the side that belongs to the first level
    means, stds, agnostic                           of the deltas; agnostic: one box for all classes
    classes, score_thr, iou_threshold, max_per_img  as in MMDetection's test_cfg.rcnn
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rebnn_mm.errors import UserError

METHOD = "rois"
# Regions that ``rois`` takes at once: more need more memory, fewer read the weights of the linear layers more often
BATCH = 100


class RegionMaps(nn.Module):
    """Backbone, neck and RPN head: images -> the head's maps and the levels of the neck, in a flat tuple."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone, self.neck, self.rpn_head = detector.backbone, detector.neck, detector.rpn_head
        self.levels = detector.roi_head.bbox_roi_extractor.num_inputs

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> scores of all levels, deltas of all levels, feature maps."""
        levels = self.neck(self.backbone(x))
        return (*(level for maps in self.rpn_head(levels) for level in maps), *levels[: self.levels])


class RegionHead(nn.Module):
    """The RoI head's layers: (K, C * h * w), or (K, C, h, w) of a head with convolutions -> (scores, deltas)."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        head, extractor = detector.roi_head, detector.roi_head.bbox_roi_extractor
        self.shared_head = head.shared_head if head.with_shared_head else None
        self.bbox_head = head.bbox_head
        self.shape = (extractor.out_channels, *extractor.roi_layers[0].output_size)

    @property
    def is_flat(self) -> bool:
        """Whether it takes rows: linear layers alone, which read a region's values in the order (C, h, w)."""
        spatial = ("num_shared_convs", "num_cls_convs", "num_reg_convs", "with_avg_pool")
        return self.shared_head is None and not any(getattr(self.bbox_head, name, True) for name in spatial)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute."""
        x = x.reshape(-1, *self.shape)
        scores, deltas = self.bbox_head(x if self.shared_head is None else self.shared_head(x))
        return scores, deltas


def is_two_stage(model: Any) -> bool:
    """Whether the model has an RPN and a RoI head."""
    return getattr(model, "rpn_head", None) is not None and getattr(model, "roi_head", None) is not None


def check_regions(model: Any, who: str = "the C++ library") -> None:
    """Raise UserError unless ``who`` computes what stands between and behind the methods.

    It knows mmdet's ``StandardRoIHead`` without masks, with the extractor that reads each region from one level and
    averages it with ``RoIAlign``, and deltas of centers and sizes.
    """
    head = model.roi_head
    name = type(model).__name__
    if type(head).__name__ != "StandardRoIHead" or getattr(head, "with_mask", False):
        raise UserError(
            f"{name} has a {type(head).__name__}{' with masks' if getattr(head, 'with_mask', False) else ''}; {who} "
            "knows StandardRoIHead without masks: tools/export.py writes backbone and neck"
        )
    extractor = head.bbox_roi_extractor
    layers = getattr(extractor, "roi_layers", [])
    known = type(extractor).__name__ == "SingleRoIExtractor" and all(
        type(layer).__name__ == "RoIAlign" and layer.aligned and layer.pool_mode == "avg" for layer in layers
    )
    coder = head.bbox_head.bbox_coder
    if not known or type(coder).__name__ != "DeltaXYWHBBoxCoder" or head.bbox_head.custom_cls_channels:
        raise UserError(
            f"{name} reads regions or decodes boxes in another way than {who}, which knows "
            "SingleRoIExtractor with RoIAlign (aligned, average) and DeltaXYWHBBoxCoder: tools/export.py writes "
            "backbone and neck"
        )


def regions_of(model: Any) -> dict[str, Any]:
    """The card's ``regions`` of a model that :func:`check_regions` takes."""
    extractor, head, cfg = model.roi_head.bbox_roi_extractor, model.roi_head.bbox_head, model.roi_head.test_cfg
    height, width = extractor.roi_layers[0].output_size
    return dict(
        strides=[float(n) for n in extractor.featmap_strides],
        height=int(height),
        width=int(width),
        samples=int(extractor.roi_layers[0].sampling_ratio),
        finest_scale=float(extractor.finest_scale),
        means=[float(n) for n in head.bbox_coder.means],
        stds=[float(n) for n in head.bbox_coder.stds],
        agnostic=bool(head.reg_class_agnostic),
        classes=int(head.num_classes),
        score_thr=float(cfg.score_thr),
        iou_threshold=float(cfg.nms.get("iou_threshold", 0.5)),
        max_per_img=int(cfg.max_per_img),
    )
