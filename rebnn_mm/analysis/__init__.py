"""Operations, bytes and tables about a model or its logs."""

from rebnn_mm.analysis.opcount import LayerCount, ModelCount, count_bytes, count_model, format_table
from rebnn_mm.analysis.oscillation import Histogram, Oscillation, read_oscillation

__all__ = [
    "Histogram",
    "LayerCount",
    "ModelCount",
    "Oscillation",
    "count_bytes",
    "count_model",
    "format_table",
    "read_oscillation",
]
