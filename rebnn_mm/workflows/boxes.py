"""A one-stage detector's file -> one network of an engine, from pixels to chosen boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rebnn_mm.deploy.file.card import ModelCard
from rebnn_mm.deploy.file.container import read_file
from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.passes import fuse
from rebnn_mm.deploy.graph.record import encode
from rebnn_mm.deploy.targets.onnx.export import check_installed, to_onnx
from rebnn_mm.deploy.targets.onnx.nms import add_nms
from rebnn_mm.deploy.targets.openvino.export import check_packages, checked_name, write_openvino
from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import write_bytes
from rebnn_mm.integrations.detection.dense_boxes import DenseBoxes
from rebnn_mm.integrations.packed import load_packed_model

ENGINES = ("onnx", "openvino")


def export_boxes(
    source: str | Path, out: str | Path, to: str, size: Sequence[int] | None, form: str | None = None
) -> Any:
    """Write a one-stage detector whole: normalization, backbone, neck, head, decoding, non-maximum suppression.

    The file takes ``images``, float RGB (1, 3, H, W) in 0..255, and gives ``boxes`` (K, 4), left, top, right, bottom in
    pixels of that image, ``scores`` (K) and ``labels`` (K), the best first. K is at most the config's ``max_per_img``.

    Args:
        source: A ``.rebnn`` file of a detector that mmdet builds.
        out: The file to write.
        to: ``'onnx'`` or ``'openvino'``.
        size: Height and width of the images.
        form: As for :func:`rebnn_mm.deploy.targets.onnx.export_onnx`; None is ``'float'``.

    Returns:
        What is to be printed: None, or an ``OpenVinoReport``.

    Raises:
        UserError: An engine without suppression; no size, or one that the detector does not take; a detector that
            :class:`DenseBoxes` does not know; what the engine's exporter refuses.
        MissingPackageError: The engine's package is not installed.
    """
    if to not in ENGINES:
        raise UserError(f"--part boxes: {' and '.join(ENGINES)} have non-maximum suppression, {to} has not")
    if size is None or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
        raise UserError(f"--part boxes is for images of one size: give --size H W, not {size}")
    check_packages() if to == "openvino" else check_installed()
    card = ModelCard.from_plain(read_file(source).info)
    if card.preprocessing is None or card.config is None:
        raise UserError(
            f"{source} is no detector's file of tools/export.py: it says nothing of config and preprocessing"
        )
    detector = DenseBoxes(load_packed_model(source), card.preprocessing, (size[0], size[1])).eval()
    image = torch.zeros(1, len(card.preprocessing.mean) or 3, *size)
    traced = fuse(capture(detector, [image], any_size=False))
    network = GraphNetwork(encode(traced), traced.tensors)
    model = to_onnx(network, "packed" if to == "openvino" else form or "float", names=("images",))
    add_nms(model, detector.iou_threshold, detector.max_boxes)
    if to == "openvino":
        return write_openvino(model, checked_name(out), [list(image.shape)], card.classes)
    _add_classes(model, card)
    write_bytes(out, model.SerializeToString())
    return None


def _add_classes(model: Any, card: ModelCard) -> None:
    import onnx

    if card.classes:
        onnx.helper.set_model_props(model, {"classes": json.dumps(card.classes)})
    onnx.checker.check_model(model)
