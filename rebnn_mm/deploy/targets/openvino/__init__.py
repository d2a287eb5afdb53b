"""A packed file as OpenVINO's IR, with 1-bit units in the operators that it computes on bits (docs/openvino.md)."""

from rebnn_mm.deploy.targets.openvino.export import export_openvino
from rebnn_mm.deploy.targets.openvino.report import OpenVinoReport, Primitive, primitives

__all__ = ["OpenVinoReport", "Primitive", "export_openvino", "primitives"]
