"""Teacher-student training: losses on logits and hidden states, and a frozen teacher; needs torch only."""

from rebnn_mm.distill.losses import feature_loss, similarity_loss, soft_cross_entropy
from rebnn_mm.distill.teacher import FrozenTeacher

__all__ = ["FrozenTeacher", "feature_loss", "similarity_loss", "soft_cross_entropy"]
