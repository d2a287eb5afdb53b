"""A packed file as an ONNX graph: in standard operators that any run-time takes, or with the weights packed.

``form='float'`` uses the standard operators only: a sign is ``Where(x >= 0, 1, -1)``, and a binary weight is one bit an
element in the file, unpacked by standard operators that a run-time evaluates once, when it loads the file. It runs
everywhere and is as slow as a real-valued network. ``form='packed'`` has one node ``rebnn_mm.BinaryConv2d`` or
``rebnn_mm.BinaryLinear`` for each 1-bit unit, described in docs/onnx.md, for run-times that implement them.
``form='qonnx'`` is the float form with QONNX's ``BipolarQuant`` on what a 1-bit layer reads, and on its weight, which
is float32 there; for FINN and other tools that read QONNX.
``form='real'`` is for comparing speed only: the same network without signs, shifts and norms in front of them, a ReLU
for each PReLU and every norm folded, which is the least that a real-valued network of this shape can cost; its results
mean nothing.
"""

from rebnn_mm.deploy.targets.onnx.export import export_onnx
from rebnn_mm.deploy.targets.onnx.units import DOMAIN, DOMAIN_VERSION, FORMS

__all__ = ["DOMAIN", "DOMAIN_VERSION", "FORMS", "export_onnx"]
