"""How a sign passes gradients: one rule a file, registered in mmengine's ``MODELS``."""

from rebnn_mm.estimators.clipped import ClippedSTE, clipped_sign
from rebnn_mm.estimators.ede import EDE, error_decay_sign
from rebnn_mm.estimators.polynomial import PolynomialSTE, polynomial_sign
from rebnn_mm.estimators.step import clipped_step

__all__ = ["EDE", "ClippedSTE", "PolynomialSTE", "clipped_sign", "clipped_step", "error_decay_sign", "polynomial_sign"]
