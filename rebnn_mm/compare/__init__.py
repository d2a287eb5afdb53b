"""Training a grid of configs and seeds, and reading what came out: from config files to a table and figures."""

from rebnn_mm.compare.report import write_report
from rebnn_mm.compare.schedule import run_all
from rebnn_mm.compare.spec import Run, Spec, read_spec

__all__ = ["Run", "Spec", "read_spec", "run_all", "write_report"]
