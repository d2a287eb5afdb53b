"""Make any model 1-bit by rule: which layers, to which, presets by family, and a report of what was done."""

from rebnn_mm.convert.config import Binarized
from rebnn_mm.convert.presets import PRESETS, Preset
from rebnn_mm.convert.report import BinarizeReport
from rebnn_mm.convert.rule import binarize

__all__ = ["PRESETS", "BinarizeReport", "Binarized", "Preset", "binarize"]
