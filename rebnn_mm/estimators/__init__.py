"""How a sign passes gradients: one rule a file, registered in mmengine's ``MODELS``."""

from rebnn_mm.estimators.clipped import CLIPPED, ClippedSTE, clipped_sign
from rebnn_mm.estimators.ede import EDE, error_decay_sign
from rebnn_mm.estimators.elastic import ElasticSTE, elastic_sign
from rebnn_mm.estimators.polynomial import POLYNOMIAL, PolynomialSTE, polynomial_sign
from rebnn_mm.estimators.scaled import gradient_of_scaled
from rebnn_mm.estimators.slope import Slope
from rebnn_mm.estimators.step import clipped_step
from rebnn_mm.estimators.straight import straight_sign

__all__ = [
    "CLIPPED",
    "EDE",
    "POLYNOMIAL",
    "ClippedSTE",
    "ElasticSTE",
    "PolynomialSTE",
    "Slope",
    "clipped_sign",
    "clipped_step",
    "elastic_sign",
    "error_decay_sign",
    "gradient_of_scaled",
    "polynomial_sign",
    "straight_sign",
]
