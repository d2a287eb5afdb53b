"""From a trained network to a small file that runs fast: packing, kernels, export and run-time."""

from typing import Any

from rebnn_mm.deploy.card import ModelCard, Preprocessing
from rebnn_mm.deploy.format import RebnnFileError
from rebnn_mm.deploy.runtime import load_model, load_parts

__all__ = ["Check", "ModelCard", "Preprocessing", "RebnnFileError", "export_model", "load_model", "load_parts"]


def __getattr__(name: str) -> Any:
    """Import the export when asked for: it needs mmengine, which loading a classifier does not."""
    if name in ("Check", "export_model"):
        from rebnn_mm.deploy import export

        return getattr(export, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
