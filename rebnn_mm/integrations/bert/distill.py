"""A 1-bit BERT that learns from a real-valued one."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor
from torch.nn import functional

from rebnn_mm.checks import check_number
from rebnn_mm.distill import feature_loss, similarity_loss, soft_cross_entropy
from rebnn_mm.errors import UserError
from rebnn_mm.integrations.bert.classifier import BertClassifier, BertStates, Inputs
from rebnn_mm.integrations.teacher import Taught


@MODELS.register_module()
class DistilledBertClassifier(Taught, BertClassifier):
    """``BertClassifier`` trained against a frozen teacher, fine-tuned on the same task.

    Three parts, as in BiBERT (Qin et al., ICLR 2022) and BiT (Liu et al., NeurIPS 2022): the logits, by soft cross
    entropy; the hidden states of the embeddings and of each layer, by their squared distance; and attention, by
    BiBERT's :func:`rebnn_mm.distill.similarity_loss` of queries, keys and values. Padding does not count.
    Checkpoints hold the student alone and load into the plain ``BertClassifier``.

    Args:
        args, kwargs: As for :class:`BertClassifier`.
        teacher: ``dict(config=..., checkpoint=...)``, see :func:`rebnn_mm.integrations.teacher.build_teacher`; of the
            student's depth and width if hidden states or attention are to be compared.
        logit_weight, hidden_weight, attention_weight: Factors of the parts; 0 leaves one out.
        label_weight: Factor of the loss on the labels; both papers leave it out.
        temperature: Of :func:`rebnn_mm.distill.soft_cross_entropy`.

    Raises:
        ValueError: ``teacher`` of another form, negative weights, or none that needs a teacher.
    """

    teacher_method = "observe"

    def __init__(
        self,
        *args: Any,
        teacher: dict[str, Any],
        logit_weight: float = 1.0,
        hidden_weight: float = 1.0,
        attention_weight: float = 1.0,
        label_weight: float = 0.0,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.set_teacher(teacher)
        self.weights = dict(logits=logit_weight, hidden=hidden_weight, attention=attention_weight)
        factors = dict(logit=logit_weight, hidden=hidden_weight, attention=attention_weight, label=label_weight)
        for name, value in factors.items():
            check_number(f"DistilledBertClassifier: {name}_weight", value, least=0)
        check_number("DistilledBertClassifier: temperature", temperature, above=0)
        if not any(self.weights.values()):
            raise UserError(
                "DistilledBertClassifier: logit_weight, hidden_weight and attention_weight are all 0, and one must be "
                "> 0; without a teacher use type='BertClassifier'"
            )
        self.label_weight = label_weight
        self.temperature = temperature

    def init_weights(self) -> None:
        """As :class:`BertClassifier`; the teacher is read, too.

        Raises:
            ValueError: A teacher of another task.
        """
        super().init_weights()
        task = getattr(self.teacher.module, "task", None)
        if task != self.task:
            raise UserError(
                f"the teacher is for {getattr(task, 'name', 'no GLUE task')}, the student for {self.task.name}: set "
                "model.teacher.config and model.teacher.checkpoint to one fine-tuned on the student's task"
            )

    def loss(self, inputs: Inputs, data_samples: dict[str, Any]) -> dict[str, Tensor]:
        """``loss_logits``, ``loss_hidden``, ``loss_attention`` and ``loss_cls``, those whose weight is not 0."""
        order = ("input_ids", "token_type_ids", "attention_mask")
        batch = [inputs[name] for name in order]
        mine, other = self.observe(*batch), self.teacher(*batch)
        parts = dict(logits=self._logits, hidden=self._hidden, attention=self._attention)
        mask = inputs["attention_mask"]
        losses = {f"loss_{name}": w * parts[name](mine, other, mask) for name, w in self.weights.items() if w}
        if self.label_weight:
            losses["loss_cls"] = self.label_weight * self.label_loss(mine.logits, data_samples)
        return losses

    def _logits(self, mine: BertStates, other: BertStates, mask: Tensor) -> Tensor:
        if self.task.is_regression:
            return functional.mse_loss(mine.logits, other.logits)
        return soft_cross_entropy(mine.logits, other.logits, self.temperature)

    def _hidden(self, mine: BertStates, other: BertStates, mask: Tensor) -> Tensor:
        return feature_loss(mine.hidden, other.hidden, dim=-1, mask=mask)

    def _attention(self, mine: BertStates, other: BertStates, mask: Tensor) -> Tensor:
        heads = self.bert_config.num_attention_heads
        pairs = ((mine.queries, other.queries), (mine.keys, other.keys), (mine.values, other.values))
        return torch.stack([similarity_loss(a, b, heads, mask) for a, b in pairs]).sum()
