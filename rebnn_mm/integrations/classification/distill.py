"""A classifier of MMPretrain that learns from a teacher's soft labels."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor

from rebnn_mm.checks import check_number
from rebnn_mm.distill import soft_cross_entropy
from rebnn_mm.integrations.teacher import Taught


@MODELS.register_module()
class DistilledClassifier(Taught, ImageClassifier):
    """``ImageClassifier`` trained with the soft cross entropy against a frozen teacher.

    Only the loss differs: checkpoints hold the student alone and load into the plain ``ImageClassifier`` config, and
    testing, counting and exporting need no teacher. Its weights are read when training starts.

    Args:
        args, kwargs: As for ``ImageClassifier``.
        teacher: ``dict(config=..., checkpoint=...)``, see :func:`rebnn_mm.integrations.teacher.build_teacher`.
        temperature: Of :func:`rebnn_mm.distill.soft_cross_entropy`.
        distill_weight: Factor of the soft cross entropy.
        label_weight: Factor of the head's own loss on the labels; 0, as in ReActNet and ReBNN, leaves it out.

    Raises:
        ValueError: ``teacher`` of another form, or weights that leave no loss.
    """

    def __init__(
        self,
        *args: Any,
        teacher: dict[str, Any],
        temperature: float = 1.0,
        distill_weight: float = 1.0,
        label_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.set_teacher(teacher)
        without = "; without a teacher use type='ImageClassifier'"
        check_number("DistilledClassifier: distill_weight", distill_weight, above=0, hint=without)
        check_number("DistilledClassifier: label_weight", label_weight, least=0)
        check_number("DistilledClassifier: temperature", temperature, above=0)
        self.temperature = temperature
        self.distill_weight = distill_weight
        self.label_weight = label_weight

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """(N, 3, H, W), normalized -> ``loss_distill``, and the head's losses if ``label_weight`` is not 0."""
        feats = self.extract_feat(inputs)
        soft = soft_cross_entropy(self.head(feats), self.teacher(inputs), self.temperature)
        losses = dict(loss_distill=self.distill_weight * soft)
        if self.label_weight:
            for name, value in self.head.loss(feats, data_samples).items():
                losses[name] = self.label_weight * value if "loss" in name else value
        return losses
