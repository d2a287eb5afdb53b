"""Detectors as ONNX graphs up to chosen boxes: ONNX's own suppression, and its RoIAlign between two stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.targets.onnx.builder import Builder, Value
from rebnn_mm.deploy.targets.onnx.convert import convert, leaves_by_name
from rebnn_mm.deploy.targets.onnx.export import model_of

RESULTS = ("boxes", "scores", "labels")


@dataclass(frozen=True)
class Suppression:
    """Of two boxes that overlap by more than ``iou_threshold`` the better stays; the ``most`` best are kept."""

    iou_threshold: float
    most: int


@dataclass(frozen=True)
class Regions:
    """How regions are read from levels of maps, each from one level, averaged.

    Attributes:
        strides: Pixels of the image in a pixel of each level.
        height, width: Of a region, in bins.
        samples: In a bin, in each direction; 0 is as many as there are pixels.
        finest_scale: Side of a region that belongs to the first level; one of twice the side belongs to the second.
    """

    strides: tuple[float, ...]
    height: int
    width: int
    samples: int
    finest_scale: float


def dense_to_onnx(network: GraphNetwork, form: str, last: Suppression) -> Any:
    """``onnx.ModelProto``: ``images`` -> ``boxes`` (K, 4), ``scores`` (K) and ``labels`` (K), the best first.

    Args:
        network: Images -> boxes (1, M, 4), the same moved so far apart that boxes of different classes do not overlap,
            scores (1, M), 0 or less for none, and labels (1, M).
        form: See :mod:`rebnn_mm.deploy.targets.onnx`.
        last: For these.

    Raises:
        UserError: An operator that the export does not know.
    """
    g, images, values = _started(network, form)
    return _finished(g, images, network, values, last)


def regions_to_onnx(
    first: GraphNetwork, second: GraphNetwork, form: str, proposed: Suppression, regions: Regions, last: Suppression
) -> Any:
    """The same of two networks.

    Args:
        first: Images -> boxes, the same moved apart, scores, as above; and feature maps, (1, C, H, W) each.
        second: Regions (K, C, h, w) and their boxes (K, 4) -> what :func:`dense_to_onnx` takes.
        form: As above.
        proposed: For what ``first`` gives.
        regions: How the chosen of these are read from the maps.
        last: For what ``second`` gives.
    """
    g, images, (boxes, apart, scores, *maps) = _started(first, form)
    (chosen,) = _chosen(g, apart, scores, [boxes], proposed)
    read, ordered = _read(g, maps, chosen, regions)
    values = list(leaves_by_name(convert(g, second.traced(), [read, ordered]), "second").values())
    return _finished(g, images, first, [g.value(value) for value in values], last)


def _started(network: GraphNetwork, form: str) -> tuple[Builder, Value, list[Value]]:
    g = Builder(form)
    images = g.input("images", torch.float32, 4)
    found = leaves_by_name(convert(g, network.traced(), [images]), "first")
    return g, images, [g.value(value) for value in found.values()]


def _finished(g: Builder, images: Value, network: GraphNetwork, values: Sequence[Value], last: Suppression) -> Any:
    boxes, apart, scores, labels = values
    found = _chosen(g, apart, scores, [boxes, scores, labels], last)
    outputs = [g.op("Identity", value, name=name) for name, value in zip(RESULTS, found, strict=True)]
    model = model_of(g, [images], network.traced().inputs, outputs)
    for output in model.graph.output:  # what inference makes of sizes that it does not know
        output.type.tensor_type.shape.dim[0].dim_param = "K"
    return model


def _chosen(g: Builder, apart: Value, scores: Value, values: Sequence[Value], how: Suppression) -> list[Value]:
    """Those of (1, M, ...) ``values`` whose boxes stay, (K, ...), the best first."""
    axis = g.integers([0])
    grouped = g.op("Unsqueeze", scores, axis, rank=3)  # (batch, classes, candidates)
    limits = g.integers([how.most]), _vector(g, how.iou_threshold), _vector(g, 0.0)
    triples = g.op("NonMaxSuppression", apart, grouped, *limits, dtype=torch.int64, rank=2)
    places = g.op("Gather", triples, g.scalar(2, torch.int64), axis=1, rank=1)
    rows = [g.op("Squeeze", value, axis, rank=_rank(value) - 1) for value in values]
    return [g.op("Gather", row, places, axis=0) for row in rows]


def _read(g: Builder, maps: Sequence[Value], boxes: Value, how: Regions) -> tuple[Value, Value]:
    """Regions (K, C, h, w), level after level, and their boxes in this order."""
    level = _level(g, boxes, how.finest_scale, len(maps))
    read, ordered = [], []
    for index, (one, stride) in enumerate(zip(maps, how.strides, strict=True)):
        mine = g.op("Equal", level, g.scalar(float(index)), dtype=torch.bool)
        places = g.op("Squeeze", g.op("NonZero", mine, dtype=torch.int64, rank=2), g.integers([0]), rank=1)
        own = g.op("Gather", boxes, places, axis=0)
        first = g.op("Mul", places, g.scalar(0, torch.int64))  # all of the one image
        options: dict[str, Any] = dict(output_height=how.height, output_width=how.width, sampling_ratio=how.samples)
        options |= dict(mode="avg", spatial_scale=1 / stride, coordinate_transformation_mode="half_pixel")
        read.append(g.op("RoiAlign", one, own, first, rank=4, **options))
        ordered.append(own)
    if len(read) == 1:
        return read[0], ordered[0]
    return g.op("Concat", *read, axis=0), g.op("Concat", *ordered, axis=0)


def _level(g: Builder, boxes: Value, finest_scale: float, count: int) -> Value:
    """Of each box the level that it is read from, as a float: ``log2(sqrt(area) / finest_scale)``, rounded down."""
    left, top, right, bottom = (g.op("Gather", boxes, g.scalar(k, torch.int64), axis=1, rank=1) for k in range(4))
    area = g.op("Mul", g.op("Sub", right, left), g.op("Sub", bottom, top))
    scale = g.op("Add", g.op("Div", g.op("Sqrt", area), g.scalar(finest_scale)), g.scalar(1e-6))
    floor = g.op("Floor", g.op("Mul", g.op("Log", scale), g.scalar(1 / math.log(2))))
    return g.op("Clip", floor, g.scalar(0.0), g.scalar(count - 1.0))


def _vector(g: Builder, number: float) -> Value:
    return g.constant(torch.tensor([number], dtype=torch.float32))


def _rank(value: Value | Tensor) -> int:
    rank = value.rank if isinstance(value, Value) else value.dim()
    assert rank is not None, "a file states the rank of every tensor"
    return rank
