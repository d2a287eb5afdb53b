"""A detector's file -> one network of an engine, from pixels to chosen boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm.deploy.file.card import ModelCard, Preprocessing
from rebnn_mm.deploy.file.container import read_file
from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.passes import fuse
from rebnn_mm.deploy.graph.record import encode
from rebnn_mm.deploy.targets.onnx.export import check_installed
from rebnn_mm.deploy.targets.onnx.nms import Regions, Suppression, dense_to_onnx, regions_to_onnx
from rebnn_mm.deploy.targets.openvino.export import check_packages, checked_name, write_openvino
from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import write_bytes
from rebnn_mm.integrations.detection.dense_boxes import DenseBoxes
from rebnn_mm.integrations.detection.region_boxes import Proposals, RegionBoxes
from rebnn_mm.integrations.packed import load_packed_model
from rebnn_mm.integrations.regions import is_two_stage, regions_of
from rebnn_mm.workflows.boxes_check import check_boxes

ENGINES = ("onnx", "openvino")


def checked_size(to: str, size: Sequence[int] | None) -> tuple[int, int]:
    """Height and width of the images; raises UserError for none, or an engine without suppression."""
    if to not in ENGINES:
        raise UserError(f"--part boxes: {' and '.join(ENGINES)} have non-maximum suppression, {to} has not")
    if size is None or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
        raise UserError(f"--part boxes is for images of one size: give --size H W, not {size}")
    return size[0], size[1]


def export_boxes(
    source: str | Path,
    out: str | Path,
    to: str,
    size: Sequence[int] | None,
    form: str | None = None,
    verify: bool = True,
) -> Any:
    """Write a detector whole: normalization, backbone, neck, heads, decoding, non-maximum suppression.

    A two-stage detector, for ONNX only, has suppression and ``RoiAlign`` in between as well.

    The file takes ``images``, float RGB (1, 3, H, W) in 0..255, and gives ``boxes`` (K, 4), left, top, right, bottom in
    pixels of that image, ``scores`` (K) and ``labels`` (K), the best first. K is at most the config's ``max_per_img``.

    Args:
        source: A ``.rebnn`` file of a detector that mmdet builds.
        out: The file to write.
        to: ``'onnx'`` or ``'openvino'``.
        size: Height and width of the images.
        form: As for :func:`rebnn_mm.deploy.targets.onnx.export_onnx`; None is ``'float'``.
        verify: Compare ONNX's boxes in onnxruntime with the packed detector's, see
            :func:`rebnn_mm.workflows.boxes_check.check_boxes`; OpenVINO's report does without.

    Returns:
        What is to be printed: a sentence, or an ``OpenVinoReport``.

    Raises:
        UserError: An engine without suppression; no size, or one that the detector does not take; a detector that
            :class:`DenseBoxes` and :class:`Proposals` do not know; what the engine's exporter refuses; other boxes.
        MissingPackageError: The engine's package is not installed.
    """
    size = checked_size(to, size)
    check_packages() if to == "openvino" else check_installed()
    card = ModelCard.from_plain(read_file(source).info)
    if card.preprocessing is None or card.config is None:
        raise UserError(
            f"{source} is no detector's file of tools/export.py: it says nothing of config and preprocessing"
        )
    packed: Any = load_packed_model(source)
    image = torch.zeros(1, len(card.preprocessing.mean) or 3, *size)
    own_form = "packed" if to == "openvino" else form or "float"
    if is_two_stage(packed) and to == "openvino":
        raise UserError("--part boxes of openvino is for one-stage detectors: leave it out for backbone and neck")
    build = _two_stage if is_two_stage(packed) else _one_stage
    model = build(packed, card.preprocessing, image, own_form)
    if to == "openvino":
        return write_openvino(model, checked_name(out), [list(image.shape)], card.classes)
    _add_classes(model, card)
    data = model.SerializeToString()
    said = check_boxes(data, packed, image.shape) if verify and own_form in ("float", "real") else None
    write_bytes(out, data)
    return said


def _one_stage(packed: Any, preprocessing: Preprocessing, image: Tensor, form: str) -> Any:
    detector = DenseBoxes(packed, preprocessing, _size(image)).eval()
    return dense_to_onnx(_captured(detector, image), form, _suppression(detector))


def _two_stage(packed: Any, preprocessing: Preprocessing, image: Tensor, form: str) -> Any:
    first = Proposals(packed, preprocessing, _size(image)).eval()
    second = RegionBoxes(packed, _size(image)).eval()
    read = regions_of(packed)
    regions = Regions(tuple(read["strides"]), read["height"], read["width"], read["samples"], read["finest_scale"])
    some = torch.randn(3, *second.shape), torch.tensor([[0.0, 0, 20, 30], [5, 5, 50, 60], [3, 3, 9, 9]])
    graphs = _captured(first, image), _captured(second, *some)
    return regions_to_onnx(*graphs, form, _suppression(first), regions, _suppression(second))


def _size(image: Tensor) -> tuple[int, int]:
    return (image.shape[2], image.shape[3])


def _captured(module: nn.Module, *inputs: Tensor) -> GraphNetwork:
    """Of these sizes; a first dimension of more than one may be another."""
    traced = fuse(capture(module, list(inputs), any_size=False))
    return GraphNetwork(encode(traced), traced.tensors)


def _suppression(part: DenseBoxes | RegionBoxes) -> Suppression:
    return Suppression(part.iou_threshold, part.max_boxes)


def _add_classes(model: Any, card: ModelCard) -> None:
    import onnx

    if card.classes:
        onnx.helper.set_model_props(model, {"classes": json.dumps(card.classes)})
    onnx.checker.check_model(model)
