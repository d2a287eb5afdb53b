"""The process's one ``openvino.Core``, and what it compiles."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def core() -> Any:
    """The ``openvino.Core`` of this process, which reads ONNX with our 1-bit operators.

    One for all, and kept: OpenVINO 2026.4.1 puts a signal stack of its own in place, and a second Core puts back that
    of the first, whose memory may be freed by then. The next Ctrl-C then ends the process with a segmentation fault.
    """
    from openvino import Core
    from openvino.frontend.onnx import ConversionExtension

    from rebnn_mm.deploy.targets.onnx.units import DOMAIN
    from rebnn_mm.deploy.targets.openvino.units import convert_unit

    made = Core()
    for kind in ("BinaryConv2d", "BinaryLinear"):
        made.add_extension(ConversionExtension(kind, DOMAIN, convert_unit))
    return made


def compile_model(model: Any, threads: int | None = None) -> Any:
    """The ``openvino.CompiledModel`` on the CPU, with real-valued layers in float32."""
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        options.update(INFERENCE_NUM_THREADS=threads, NUM_STREAMS=1)
    return core().compile_model(model, "CPU", options)
