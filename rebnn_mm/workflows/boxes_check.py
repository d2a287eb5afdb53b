"""Whether a detector's ONNX file finds the packed detector's boxes, in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.errors import UserError
from rebnn_mm.integrations.images.pipeline import channel_order
from rebnn_mm.integrations.samples import data_sample

Boxes = tuple[Tensor, Tensor, Tensor]  # (K, 4), scores (K,), labels (K,)
_IMAGES = 3
_PIXELS, _SCORE = 0.5, 0.01  # of boxes that are the same
_OVERLAP, _LEAST = 0.5, 0.5  # what a turned sign moves still overlaps; share of sure boxes that must
_SURE = 0.3  # a score; boxes of noise that are weaker come and go with a turned sign


def check_boxes(data: bytes, detector: Any, shape: Sequence[int]) -> str:
    """Compare on images of noise; a sentence that says how many boxes are the same.

    Args:
        data: The ONNX file.
        detector: The packed detector, of :func:`rebnn_mm.integrations.packed.load_packed_model`.
        shape: Of the images, (1, C, H, W).

    Raises:
        UserError: Fewer than half of the detector's sure boxes have a counterpart that turned signs explain: one of the
            same class that overlaps by half.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return "not compared with the packed detector: pip install onnxruntime"
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    same, near, sure = [], [], []
    for _ in range(_IMAGES):
        image = torch.randint(0, 256, tuple(shape), generator=generator, dtype=torch.uint8)
        results = session.run(["boxes", "scores", "labels"], {"images": image.float().numpy()})
        expected = boxes_of(detector, image[0])
        equal, overlapping = _found(expected, tuple(torch.from_numpy(x) for x in results))  # type: ignore[arg-type]
        same.append(equal)
        near.append(overlapping)
        sure.append(expected[1] >= _SURE)
    found, overlap, decides = torch.cat(same), torch.cat(near), torch.cat(sure)
    said = f"onnxruntime finds {int(found.sum())} of the packed detector's {len(found)} boxes in {_IMAGES} images of "
    said += f"noise within {_PIXELS} pixels, and {int(overlap.sum())} overlap by half or more"
    if not decides.any():
        return f"{said}; none has a score of {_SURE}, so this decides nothing: compare the boxes of a picture of yours"
    if overlap[decides].float().mean() < _LEAST:
        raise UserError(f"{said}: more than turned signs explain; no file was written, please report this network")
    return said


def boxes_of(detector: Any, image: Tensor) -> Boxes:
    """What mmdet finds in an RGB image, (C, H, W) uint8, that is not scaled."""
    turned = len(image) == 3 and channel_order(detector.cfg, "test") == "bgr"
    sample = data_sample("mmdet", (image.shape[1], image.shape[2]))
    data = detector.data_preprocessor(dict(inputs=[image.flip(0) if turned else image], data_samples=[sample]), False)
    with torch.no_grad():
        found = detector(**data, mode="predict")[0].pred_instances
    return found.bboxes, found.scores, found.labels


def _found(expected: Boxes, found: Boxes) -> tuple[Tensor, Tensor]:
    """Whether each of the expected boxes is there, and whether it is there or overlaps one of its class by half."""
    from torchvision.ops import box_iou

    labels = expected[2][:, None] == found[2]
    same = (expected[0][:, None] - found[0]).abs().amax(-1) < _PIXELS
    same &= labels & ((expected[1][:, None] - found[1]).abs() < _SCORE)
    near = same | (labels & (box_iou(expected[0], found[0]) >= _OVERLAP))
    return same.any(1), near.any(1)
