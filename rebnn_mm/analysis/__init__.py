"""Operations, bytes and tables about a model or its logs."""

from rebnn_mm.analysis.opcount import LayerCount, ModelCount, count_bytes, count_model, format_table

__all__ = ["LayerCount", "ModelCount", "count_bytes", "count_model", "format_table"]
