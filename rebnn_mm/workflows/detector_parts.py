"""Which parts of a detector are stored as graphs, found by running it on noise."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from rebnn_mm.deploy.graph.parts import Part, find_inputs
from rebnn_mm.deploy.graph.towers import find_towers
from rebnn_mm.integrations.samples import data_sample


def detector_parts(model: nn.Module, images: Tensor) -> list[Part]:
    """Backbone, neck, and the towers of the heads, for images of any size.

    Args:
        model: A detector of mmdet's.
        images: (2, C, H, W) uint8.
    """
    model.eval()  # not chained: that of mmdet's distillers returns nothing

    def data(images: Tensor) -> Any:
        samples = [data_sample("mmdet", tuple(images.shape[2:])) for _ in images]
        return model.data_preprocessor(dict(inputs=list(images), data_samples=samples), False)

    def use(images: Tensor, detector: nn.Module) -> None:
        detector(**data(images), mode="predict")
        if getattr(detector, "with_roi_head", False):  # on proposals, even where nothing is detected
            detector(**data(images), mode="tensor")

    def as_tensors(detector: nn.Module) -> None:
        try:  # a DETR's head gets all layers of its decoder then, and the last one to predict
            detector(**data(images), mode="tensor")
        except Exception:  # some need ground truth for that
            use(images, detector)

    def within(names: list[str]) -> list[Part]:
        try:
            towers = find_towers(model, names, partial(use, images), partial(use, other), as_tensors)
        except Exception as error:  # whatever keeps a detector from running by itself: Fast R-CNN lacks proposals
            print_log(
                f"export: {', '.join(names)} packed layer by layer, as they do not run here: {error!r}", "current"
            )
            return []
        return [replace(tower, any_size=True) for tower in towers]

    other = images[:1].repeat(1, 1, 2, 2)  # batch, height and width are others
    body = [name for name in ("backbone", "neck") if isinstance(getattr(model, name, None), nn.Module)]
    parts = find_inputs(model, body, lambda detector: detector.extract_feat(data(images)["inputs"]))
    parts = [replace(part, any_size=True, within=partial(within, [part.name])) for part in parts]
    return parts + within([name for name, _ in model.named_children() if name not in body])
