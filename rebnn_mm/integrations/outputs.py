"""What a trained model and its packed twin are compared by."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rebnn_mm.deploy.load import PackedClassifier
from rebnn_mm.integrations.samples import data_sample


def outputs(model: nn.Module, image: Tensor, scope: str, rgb: bool) -> dict[str, Any]:
    """What is compared: a classifier's logits; a detector's features, its heads' outputs, and boxes, scores, labels.

    Args:
        model: The trained model, or its packed twin.
        image: (C, H, W) uint8, as the config's pipeline reads images.
        scope: ``'mmdet'`` or ``'mmpretrain'``.
        rgb: Whether the pipeline reads RGB; means nothing unless there are three channels.
    """
    if isinstance(model, PackedClassifier):
        seen = image if rgb or len(image) != 3 else image.flip(0)
        return dict(logits=model.logits(model.normalize(seen[None])))
    if scope == "mmpretrain":
        data = model.data_preprocessor(dict(inputs=[image], data_samples=None), False)
        return dict(logits=model(data["inputs"], mode="tensor"))
    from mmdet.models.detectors.single_stage_instance_seg import SingleStageInstanceSegmentor

    sample = data_sample(scope, (image.shape[1], image.shape[2]))
    data = model.data_preprocessor(dict(inputs=[image], data_samples=[sample]), False)
    found = model(**data, mode="predict")[0].pred_instances
    chosen: dict[str, Any] = {key: value for key, value in sorted(found.items()) if isinstance(value, Tensor)}
    features = model.extract_feat(data["inputs"])
    # mmdet's mode="tensor" asks these for ground truth
    segments = isinstance(model, SingleStageInstanceSegmentor) and model.bbox_head is not None
    heads = model.bbox_head(features) if segments else model(**data, mode="tensor")
    if getattr(model, "with_roi_head", False):  # what runs on proposals depends on their order
        chosen["heads"] = heads
        heads = model.rpn_head(features) if model.with_rpn else ()
    return dict(features=features, heads=heads, chosen=chosen)
