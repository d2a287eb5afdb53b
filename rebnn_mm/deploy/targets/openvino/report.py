"""What OpenVINO made of an exported network: which layers run on bits, and how far its results are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rebnn_mm.deploy.targets.openvino.compare import Comparison
from rebnn_mm.deploy.targets.openvino.units import UNIT


@dataclass(frozen=True)
class Primitive:
    """One operation of a compiled network.

    Attributes:
        name: Of the layers that it computes, joined by commas.
        kind: OpenVINO's name of the operation, as ``'BinaryConvolution'``.
        implementation: What computes it, as ``'jit_avx512_u1'``; u1 is one bit.
    """

    name: str
    kind: str
    implementation: str

    @property
    def on_bits(self) -> bool:
        """Whether it is a compiled kernel on bits."""
        return self.implementation.startswith("jit") and self.implementation.endswith("_u1")


@dataclass(frozen=True)
class OpenVinoReport:
    """What an export gave.

    Attributes:
        units: Number of 1-bit layers in the network.
        primitives: The operations of the compiled network, inputs, outputs and constants left out.
        size: Bytes of both files.
        comparison: With the packed network in torch; None where nothing was compared.
    """

    units: int
    primitives: tuple[Primitive, ...]
    size: int
    comparison: Comparison | None = None

    @property
    def on_bits(self) -> tuple[Primitive, ...]:
        """The 1-bit layers that are computed on bits."""
        return tuple(p for p in self.primitives if p.kind == "BinaryConvolution" and p.on_bits)

    def __str__(self) -> str:
        lines = [f"{p.name:60} {p.kind} {p.implementation}" for p in self.primitives if p.kind in _HEAVY]
        lines.append(f"{len(self.on_bits)} of {self.units} 1-bit layers are computed on bits, on this machine's CPU")
        if self.comparison is not None:
            lines.append(str(self.comparison))
        return "\n".join([*lines, f"{self.size / 1e6:.2f} MB"])


_HEAVY = ("BinaryConvolution", "Convolution", "FullyConnected", "MatMul", "Deconvolution")
_SILENT = ("Input", "Output", "Const")


def primitives(compiled: Any) -> tuple[Primitive, ...]:
    """The operations of an ``openvino.CompiledModel``, in order."""
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        said = {key: str(node.get_rt_info()[key].astype(str)) for key in ("layerType", "primitiveType")}
        if said["layerType"] not in _SILENT:
            name = str(node.get_rt_info()["originalLayersNames"].astype(str)) or node.get_friendly_name()
            found.append(Primitive(name.split(",")[0].removesuffix(UNIT), said["layerType"], said["primitiveType"]))
    return tuple(found)
