"""Detectors of MMDetection whose FPN maps learn from those of a teacher."""

from __future__ import annotations

from typing import Any

from mmdet.models import SingleStageDetector, TwoStageDetector
from mmengine.registry import MODELS
from torch import Tensor

from rebnn_mm.checks import check_number
from rebnn_mm.distill.losses import check_feature_kind, feature_loss
from rebnn_mm.integrations.teacher import Taught


class FeatureDistillation(Taught):
    """Add the distance between the student's and the teacher's maps to the losses of the detector inherited beside it.

    The maps are what ``extract_feat`` returns, the neck's; both need the same levels and channels. As with
    :class:`rebnn_mm.integrations.classification.distill.DistilledClassifier`, the teacher is no part of the model.

    Args:
        args, kwargs: As for the detector.
        teacher: ``dict(config=..., checkpoint=...)``, see :func:`rebnn_mm.integrations.teacher.build_teacher`.
        distill_weight: Factor of the distance.
        distill_kind: ``'cosine'``, or ``'l2'`` for maps that have the same scale; see
            :func:`rebnn_mm.distill.feature_loss`.

    Raises:
        ValueError: ``teacher`` of another form, a weight that is not positive, or an unknown kind.
    """

    teacher_method = "extract_feat"

    def __init__(
        self,
        *args: Any,
        teacher: dict[str, Any],
        distill_weight: float = 1.0,
        distill_kind: str = "cosine",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.set_teacher(teacher)
        check_number("distill_weight", distill_weight, above=0, hint="; without a teacher use the plain detector")
        check_feature_kind("distill_kind", distill_kind)
        self.distill_weight = distill_weight
        self.distill_kind = distill_kind

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict[str, Any]:
        """The detector's losses for (N, 3, H, W), normalized, and ``loss_distill``."""
        recorded: list[tuple[Tensor, ...]] = []
        detector: Any = self
        last = detector.neck if detector.with_neck else detector.backbone
        handle = last.register_forward_hook(lambda module, inputs, maps: recorded.append(maps))
        try:
            losses = super().loss(batch_inputs, batch_data_samples)
        finally:
            handle.remove()
        (maps,) = recorded  # computed once, and used by all heads
        losses["loss_distill"] = self.distill_weight * feature_loss(maps, self.teacher(batch_inputs), self.distill_kind)
        return losses


@MODELS.register_module()
class DistilledTwoStageDetector(FeatureDistillation, TwoStageDetector):
    """``TwoStageDetector`` (Faster R-CNN and its kin) whose FPN maps learn from a teacher's."""


@MODELS.register_module()
class DistilledSingleStageDetector(FeatureDistillation, SingleStageDetector):
    """``SingleStageDetector`` (RetinaNet, FCOS and their kin) whose FPN maps learn from a teacher's."""
