"""From a trained network to a small file that runs fast: packing, kernels, export and run-time."""

from typing import Any

from rebnn_mm.deploy.file.card import ModelCard, Preprocessing
from rebnn_mm.deploy.file.container import RebnnFileError
from rebnn_mm.deploy.load import load_model, load_parts

__all__ = [
    "Check",
    "ModelCard",
    "Preprocessing",
    "RebnnFileError",
    "export_executorch",
    "export_model",
    "load_executorch",
    "load_model",
    "load_parts",
]


def __getattr__(name: str) -> Any:
    """Import the exports when asked for: they need mmengine or executorch, which loading a classifier does not."""
    if name in ("Check", "export_model"):
        from rebnn_mm.deploy import export

        return getattr(export, name)
    if name in ("export_executorch", "load_executorch"):
        from rebnn_mm.deploy.targets.executorch import export as exporter
        from rebnn_mm.deploy.targets.executorch import program

        return getattr(exporter if name == "export_executorch" else program, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
