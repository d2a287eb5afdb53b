"""A detector as an ExecuTorch program: its maps, and in the card how they become boxes.

The card's ``detector`` is::

    coder          'distance' (FCOS, RTMDet: left, top, right, bottom of a point, in pixels) or 'delta' (RetinaNet,
                   ATSS: center and size)
    levels         [{stride: [x, y], priors: [[x, y] or [left, top, right, bottom], ...]}, ...]
    means, stds    of deltas; empty for distances
    sigmoid        scores are sigmoids, else softmax with the background last
    factors        scores are multiplied by sigmoids of a third kind of maps (centerness)
    classes, score_thr, nms_pre, iou_threshold, max_per_img, min_bbox_size      as in MMDetection's test_cfg
    regions        what is done with the boxes, which are proposals then; see :mod:`rebnn_mm.integrations.regions`

Results of a one-stage detector's program are scores of all levels, boxes of all levels and, with ``factors``, the third
maps of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm.deploy.file.card import ModelCard
from rebnn_mm.deploy.file.container import read_file
from rebnn_mm.deploy.graph.network import GraphNetwork, flatten
from rebnn_mm.deploy.targets.executorch.export import (
    ExecutorchReport,
    Method,
    edge_module,
    noise_like,
    write_program,
)
from rebnn_mm.deploy.targets.executorch.lowering import as_taken, check_installed
from rebnn_mm.deploy.targets.executorch.program_card import left_out, program_card, resize_of
from rebnn_mm.deploy.targets.executorch.sizes import Sizes
from rebnn_mm.deploy.targets.network import network_of
from rebnn_mm.errors import UserError
from rebnn_mm.integrations import regions
from rebnn_mm.integrations.calibration import calibration_images, calibration_regions
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
    size: tuple[int, int] | None = None,
    verify: bool = True,
    allow_slow: bool = False,
    smaller: bool = False,
    int8_linear: bool = False,
    images: str | Path | None = None,
) -> ExecutorchReport:
    """Write a detector's packed file as a program for images that are fitted into ``size``.

    Args:
        source: A ``.rebnn`` file of a detector.
        path: The file to write.
        size: (H, W) of the program's input, multiples of 32; with ``smaller`` the largest. None takes all sizes that
            the test pipeline makes, as ``smaller`` does.
        verify: As for :func:`rebnn_mm.deploy.targets.executorch.export.export_executorch`, on noise.
        allow_slow: As there.
        smaller: Take images of all sizes up to ``size``, scaled as the test pipeline scales them and filled up to
            multiples of 32; memory is planned for the largest. Else each image is scaled so that it fits into ``size``.
        int8_linear: As there.
        images: A folder of images, by which real-valued layers that no 1-bit layer follows are rounded to 8 bits.

    Raises:
        UserError: A detector whose boxes the C++ library does not decode; what cannot be lowered; no ``size`` of a
            detector whose test pipeline has none.
    """
    if size is not None:
        Sizes(size).check()
    check_installed()
    card = ModelCard.from_plain(read_file(source).info)
    if card.preprocessing is None:
        raise UserError(f"{source} does not say how images become the detector's input: export it with tools/export.py")
    if size is None:
        size, smaller = largest_size(card), True
    model = load_packed_model(source, exact=False)
    decoding = decoding_of(model)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, len(card.preprocessing.mean) or 3, *size, generator=generator)
    sizes = Sizes(size) if smaller else None
    methods = {"forward": _method(_maps_of(model), x, verify, sizes)}
    if decoding["regions"]:
        head = regions.RegionHead(model).eval()
        shape = (math.prod(head.shape),) if head.is_flat else head.shape
        methods[regions.METHOD] = _method(head, torch.randn(regions.BATCH, *shape, generator=generator), verify)
    with torch.no_grad():
        maps = flatten(methods["forward"].module(*methods["forward"].inputs))
    decoding = _with_factors(decoding, maps)
    text = program_card(
        card,
        methods["forward"].inputs,
        len(maps),
        "detector",
        decoding,
        # whatever the pipeline's size was, a program of one size has its own
        None if smaller else dict(resize=dict(mode="fit", height=size[0], width=size[1]), crop=False),
        {name: method.inputs for name, method in methods.items() if name != "forward"},
        sizes,
    )
    calibrate: dict[str, Any] = {}
    if images is not None:
        given = calibration_images(images, card.preprocessing, size, fit=True)
        calibrate["forward"] = [[image] for image in given]
        if regions.METHOD in methods:
            read = calibration_regions(model, given, regions.BATCH, head.is_flat)
            calibrate[regions.METHOD] = [[rows] for rows in read]
    report = write_program(path, methods, text, allow_slow, sizes, int8_linear, calibrate)
    return replace(report, left_out=left_out(card))


def largest_size(card: ModelCard) -> tuple[int, int]:
    """(H, W), multiples of 32, of the largest image that the test pipeline makes, upright or wide.

    Raises:
        UserError: The pipeline does not resize to within a size.
    """
    resize = resize_of(card)["resize"]
    if resize is None or resize["mode"] not in ("inside", "exact"):
        raise UserError("the detector's test pipeline names no size of images: give --size H W or --max-size H W")
    height, width = resize["height"], resize["width"]
    if resize["mode"] == "inside":
        height = width = max(height, width)
    return Sizes.around(height), Sizes.around(width)


def _maps_of(model: Any) -> nn.Module:
    return (regions.RegionMaps(model) if regions.is_two_stage(model) else DenseMaps(model)).eval()


def _method(module: nn.Module, x: Tensor, verify: bool, sizes: Sizes | None = None) -> Method:
    network = network_of(module, [x])
    assert isinstance(network, GraphNetwork)
    given = [as_taken(x)]
    edge = edge_module([network], given)
    if sizes is None or not verify:
        return Method(edge, given, network, [given, *noise_like(given, 7)] if verify else [])
    samples = [part for size in sizes.some() for part in noise_like([x.new_empty(*x.shape[:2], *size)], 4)]
    return Method(edge, given, module, samples)


def decoding_of(model: Any) -> dict[str, Any]:
    """The card's ``detector`` of an mmdet model, but for ``factors``, which the maps tell.

    Raises:
        UserError: Its head decodes in another way than mmdet's base class, or, of a two-stage detector, it computes
            something that the C++ library does not.
    """
    # mmdet is there only for detectors
    from rebnn_mm.integrations.detection.dense_boxes import check_nms, dense_head

    two = regions.is_two_stage(model)
    if two:
        head: Any = model.rpn_head
        regions.check_regions(model)
        check_nms(head.test_cfg.nms, "the RPN")
        check_nms(model.roi_head.test_cfg.nms, "the RoI head")
    else:
        head = dense_head(model)
    cfg, coding = head.test_cfg, _coding(head)
    return dict(
        coder=coding,
        levels=_levels(head, coding),
        means=[float(n) for n in head.bbox_coder.means] if coding == "delta" else [],
        stds=[float(n) for n in head.bbox_coder.stds] if coding == "delta" else [],
        sigmoid=bool(head.use_sigmoid_cls),
        factors=False,
        classes=int(head.num_classes),
        score_thr=-1.0 if two else float(cfg.get("score_thr", 0)),  # an RPN keeps all
        nms_pre=int(cfg.get("nms_pre", -1)) if cfg.get("nms_pre", -1) > 0 else _NO_LIMIT,
        iou_threshold=float(cfg.nms.get("iou_threshold", 0.5)),
        max_per_img=int(cfg.get("max_per_img", 100)),
        min_bbox_size=float(cfg.get("min_bbox_size", -1)),
        regions=regions.regions_of(model) if two else None,
    )


def _coding(head: Any) -> str:
    """How boxes are written; raises UserError for a way that the C++ library does not read."""
    coder, priors = getattr(head, "bbox_coder", None), getattr(head, "prior_generator", None)
    names = type(coder).__name__, type(priors).__name__
    plain = getattr(coder, "clip_border", False) and not getattr(coder, "add_ctr_clamp", False)
    if plain and names == ("DistancePointBBoxCoder", "MlvlPointGenerator"):
        return "distance"
    if plain and names[0] == "DeltaXYWHBBoxCoder" and hasattr(priors, "base_anchors"):
        return "delta"
    raise UserError(
        f"{type(head).__name__} writes boxes in a way ({names[0]}, {names[1]}) that the C++ library does not read; it "
        "reads distances from points (DistancePointBBoxCoder, MlvlPointGenerator) and deltas of anchors "
        "(DeltaXYWHBBoxCoder, AnchorGenerator), within the image: tools/export.py writes backbone and neck without "
        "--part boxes"
    )


def _with_factors(decoding: dict[str, Any], maps: Sequence[Tensor]) -> dict[str, Any]:
    """``decoding`` with what the maps tell; raises UserError unless they are those of such a detector."""
    levels = decoding["levels"]
    regional = len(decoding["regions"]["strides"]) if decoding["regions"] else 0
    kinds, rest = divmod(len(maps) - regional, len(levels))
    channels = [decoding["classes"] + (not decoding["sigmoid"]), 4, 1][:kinds]
    wanted = [len(level["priors"]) * number for number in channels for level in levels]
    if rest or kinds not in (2, 3) or [map_.shape[1] for map_ in maps][: len(wanted)] != wanted:
        raise UserError(
            f"the head gives {len(maps)} maps of {[map_.shape[1] for map_ in maps]} channels; the C++ library reads "
            f"scores and boxes of {len(levels)} levels, and of some heads a factor: tools/export.py writes backbone "
            "and neck without --part boxes"
        )
    return {**decoding, "factors": kinds == 3}


def _levels(head: Any, coding: str) -> list[dict[str, Any]]:
    strides = [(float(x), float(y)) for x, y in head.prior_generator.strides]
    if coding == "distance":
        offset = float(head.prior_generator.offset)
        return [dict(stride=[x, y], priors=[[offset * x, offset * y]]) for x, y in strides]
    anchors = head.prior_generator.base_anchors
    return [dict(stride=[x, y], priors=a.tolist()) for (x, y), a in zip(strides, anchors, strict=True)]
