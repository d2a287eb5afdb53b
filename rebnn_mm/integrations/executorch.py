"""A one-stage detector as an ExecuTorch program: its maps, and in the card how they become boxes.

The card's ``detector`` is::

    coder          'distance' (FCOS: left, top, right, bottom of a point) or 'delta' (RetinaNet: center and size)
    levels         [{stride: [x, y], priors: [[x, y] or [left, top, right, bottom], ...]}, ...]
    means, stds    of deltas; empty for distances
    sigmoid        scores are sigmoids, else softmax with the background last
    factors        scores are multiplied by sigmoids of a third kind of maps (centerness)
    classes, score_thr, nms_pre, iou_threshold, max_per_img, min_bbox_size      as in MMDetection's test_cfg

Results of the program are scores of all levels, boxes of all levels and, with ``factors``, the third maps of all.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm.deploy.file.card import ModelCard
from rebnn_mm.deploy.file.container import read_file
from rebnn_mm.deploy.targets.executorch.export import ExecutorchReport, export_executorch
from rebnn_mm.errors import UserError
from rebnn_mm.integrations.packed import load_packed_model

_NO_LIMIT = 1 << 20


class DenseMaps(nn.Module):
    """Backbone, neck and head of a one-stage detector: images -> maps, in a flat tuple."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone, self.neck, self.bbox_head = detector.backbone, detector.neck, detector.bbox_head

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) -> scores of all levels, boxes of all levels, ..."""
        return tuple(level for maps in self.bbox_head(self.neck(self.backbone(x))) for level in maps)


def export_detector(
    source: str | Path,
    path: str | Path,
    size: tuple[int, int],
    verify: bool = True,
    allow_slow: bool = False,
) -> ExecutorchReport:
    """Write a one-stage detector's packed file as a program for images that are fitted into ``size``.

    Args:
        source: A ``.rebnn`` file of a detector.
        path: The file to write.
        size: (H, W) of the program's input, multiples of 32.
        verify: As for :func:`export_executorch`, on noise.
        allow_slow: As for :func:`export_executorch`.

    Raises:
        UserError: A detector whose boxes the C++ library does not decode; what :func:`export_executorch` refuses.
    """
    if len(size) != 2 or any(n < 32 or n % 32 for n in size):
        raise UserError(f"size={size}: height and width of a detector's images are multiples of 32")
    model = load_packed_model(source, exact=False)
    decoding = decoding_of(model)
    card = ModelCard.from_plain(read_file(source).info)
    if card.preprocessing is None:
        raise UserError(f"{source} does not say how images become the detector's input: export it with tools/export.py")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, len(card.preprocessing.mean) or 3, *size, generator=generator)
    # whatever the pipeline's size was, the program has one
    fitted = dict(resize=dict(mode="fit", height=size[0], width=size[1]), crop=False)
    return export_executorch(
        DenseMaps(model).eval(),
        path,
        inputs=[x],
        card=replace(card, config=None),
        verify=verify,
        allow_slow=allow_slow,
        about=dict(kind="detector", detector=decoding, resize=fitted),
    )


def decoding_of(model: Any) -> dict[str, Any]:
    """The card's ``detector`` of an mmdet model.

    Raises:
        UserError: Its head is another one than those of RetinaNet and FCOS.
    """
    head = getattr(model, "bbox_head", None)
    coder = type(getattr(head, "bbox_coder", None)).__name__
    known = {"DistancePointBBoxCoder": "distance", "DeltaXYWHBBoxCoder": "delta"}
    if coder not in known or not hasattr(head, "prior_generator") or not hasattr(model, "neck"):
        raise UserError(
            f"{type(model).__name__} is not decoded by the C++ library, which knows one-stage detectors with the boxes "
            "of RetinaNet and FCOS: tools/export.py writes its backbone and neck"
        )
    cfg, coding = head.test_cfg, known[coder]
    nms = cfg.get("nms") or {}
    if nms.get("type", "nms") != "nms":
        raise UserError(f"the C++ library has plain non-maximum suppression, not {nms['type']!r}")
    return dict(
        coder=coding,
        levels=_levels(head, coding),
        means=[float(n) for n in head.bbox_coder.means] if coding == "delta" else [],
        stds=[float(n) for n in head.bbox_coder.stds] if coding == "delta" else [],
        sigmoid=bool(head.use_sigmoid_cls),
        factors=hasattr(head, "conv_centerness"),
        classes=int(head.num_classes),
        score_thr=float(cfg.get("score_thr", 0)),
        nms_pre=int(cfg.get("nms_pre", -1)) if cfg.get("nms_pre", -1) > 0 else _NO_LIMIT,
        iou_threshold=float(nms.get("iou_threshold", 0.5)),
        max_per_img=int(cfg.get("max_per_img", 100)),
        min_bbox_size=float(cfg.get("min_bbox_size", -1)),
    )


def _levels(head: Any, coding: str) -> list[dict[str, Any]]:
    strides = [(float(x), float(y)) for x, y in head.prior_generator.strides]
    if coding == "distance":
        offset = float(head.prior_generator.offset)
        return [dict(stride=[x, y], priors=[[offset * x, offset * y]]) for x, y in strides]
    anchors = head.prior_generator.base_anchors
    return [dict(stride=[x, y], priors=a.tolist()) for (x, y), a in zip(strides, anchors, strict=True)]
