"""Teacher-student training: losses on logits and hidden maps, and a frozen teacher; needs torch only."""

from rebnn_mm.distill.losses import feature_loss, soft_cross_entropy
from rebnn_mm.distill.teacher import FrozenTeacher

__all__ = ["FrozenTeacher", "feature_loss", "soft_cross_entropy"]
