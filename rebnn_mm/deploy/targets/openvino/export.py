"""From a ``.rebnn`` file to OpenVINO's ``.xml`` and ``.bin``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.deploy.file.card import ModelCard
from rebnn_mm.deploy.file.container import read_file
from rebnn_mm.deploy.load import PackedClassifier
from rebnn_mm.deploy.targets.network import Network, chosen_network, example_inputs, graphs_in_order, network_of
from rebnn_mm.deploy.targets.onnx.export import to_onnx
from rebnn_mm.deploy.targets.openvino.compare import Comparison, compare
from rebnn_mm.deploy.targets.openvino.core import compile_model, core
from rebnn_mm.deploy.targets.openvino.report import OpenVinoReport, primitives
from rebnn_mm.deploy.targets.openvino.units import UNIT, part_signs
from rebnn_mm.errors import MissingPackageError, UserError
from rebnn_mm.files.atomic import atomic_path


def export_openvino(
    path: str | Path,
    out: str | Path,
    part: str | None = None,
    size: Sequence[int] | None = None,
    length: int | None = None,
    verify: bool = True,
) -> OpenVinoReport:
    """Write a network of a ``.rebnn`` file as OpenVINO's IR, ``out`` and a ``.bin`` beside it.

    Inputs and outputs are those of :func:`rebnn_mm.deploy.targets.onnx.export_onnx`, for a batch of one and one size:
    OpenVINO's binary convolution takes no open sizes. Of a detector, backbone and neck are written: images -> feature
    maps. A sign is that of the packed network, of x = 0 too, where what it is taken of is the same number; but
    real-valued steps are fused and round in another order, and a difference of 1e-6 may turn a sign.

    Args:
        path: A ``.rebnn`` file that holds a graph.
        out: The file to write, ``*.xml``.
        part: Of a detector, one part alone: ``'backbone'``.
        size: Height and width of the images; None is that of the file's preprocessing.
        length: Length of sequences of tokens.
        verify: Compare with the packed network in torch, on noise.

    Raises:
        MissingFileError: ``path`` is no file.
        RebnnFileError: It is damaged, or holds no graph.
        UserError: ``out`` does not end in .xml; an unknown part; a size that is not known, or not the network's; an
            operator that this export does not know; results that differ from the packed network's.
        MissingPackageError: ``pip install rebnn_mm[openvino]`` was not done.
    """
    check_packages()
    out = checked_name(out)
    network = network_of(path) if part is None else chosen_network(path, part)
    card = ModelCard.from_plain(read_file(path).info)
    inputs = _inputs(network, card, None if size is None else (size[0], size[1]), length)
    classes = card.classes if isinstance(network, PackedClassifier) else None
    model = to_onnx(network, "packed")
    run = None if not verify else lambda model, compiled: compare(network, model, compiled, inputs)
    return write_openvino(model, out, [list(x.shape) for x in inputs], classes, run)


def write_openvino(
    model: Any,
    out: Path,
    shapes: Sequence[Sequence[int]],
    classes: Sequence[str] | None = None,
    check: Callable[[Any, Any], Comparison] | None = None,
) -> OpenVinoReport:
    """Write an ``onnx.ModelProto`` in the packed form for inputs of these shapes.

    Args:
        model: From :func:`rebnn_mm.deploy.targets.onnx.export.to_onnx`.
        out: The file to write, ``*.xml``.
        shapes: Of the inputs.
        classes: Names to store.
        check: Takes the ``openvino.Model`` and what it was compiled to, and raises where it is wrong.
    """
    converted = from_onnx(model, shapes)
    compiled = compile_model(converted)
    comparison = None if check is None else check(converted, compiled)
    if classes:
        converted.set_rt_info(json.dumps(classes), "classes")
    return OpenVinoReport(count_units(converted), primitives(compiled), _write(converted, out), comparison)


def to_openvino(network: Network, shapes: Sequence[Sequence[int]] | None = None) -> Any:
    """The ``openvino.Model`` of a loaded network, for inputs of these shapes; None leaves them open."""
    return from_onnx(to_onnx(network, "packed"), shapes)


def from_onnx(model: Any, shapes: Sequence[Sequence[int]] | None = None) -> Any:
    """The ``openvino.Model`` of an ``onnx.ModelProto`` in the packed form."""
    converted = core().read_model(model.SerializeToString())
    if shapes is not None:
        converted.reshape({port: list(shape) for port, shape in zip(converted.inputs, shapes, strict=True)})
    part_signs(converted)
    return converted


def checked_name(out: str | Path) -> Path:
    """``out`` as a path; raises UserError unless it ends in .xml."""
    out = Path(out)
    if out.suffix != ".xml":
        raise UserError(f"{out}: OpenVINO's files end in .xml, and the weights are written to a .bin beside it")
    return out


def count_units(model: Any) -> int:
    """1-bit layers of an ``openvino.Model``, those that are computed in real numbers (groups) included."""
    return sum(node.get_friendly_name().endswith(UNIT) for node in model.get_ops())


def check_packages() -> None:
    """Raise MissingPackageError unless OpenVINO and ONNX, as which it is handed the graph, are installed."""
    try:
        import onnx  # noqa: F401
        import openvino  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "openvino"):
            raise
        raise MissingPackageError(
            f"OpenVINO export needs the package {error.name}: pip install rebnn_mm[openvino]"
        ) from None


def _inputs(network: Network, card: ModelCard, size: tuple[int, int] | None, length: int | None) -> list[Tensor]:
    """Noise of the shapes that the file is for; for a classifier pixels."""
    inputs = example_inputs(graphs_in_order(network)[0].inputs, card, size, length)
    if not isinstance(network, PackedClassifier):
        return inputs
    (x,) = inputs
    return [torch.randint(0, 256, x.shape, generator=torch.Generator().manual_seed(0)).float()]


def _write(model: Any, out: Path) -> int:
    """Both files; the number of bytes."""
    from openvino import save_model

    with TemporaryDirectory() as folder:
        path = Path(folder) / out.name
        # 1-bit weights are stored as bits; float16 would round what is real-valued
        save_model(model, path, compress_to_fp16=False)
        contents = {suffix: path.with_suffix(suffix).read_bytes() for suffix in (".bin", ".xml")}
    with ExitStack() as both:  # on the disk before either takes its name: one file fits no other's half
        for suffix, content in contents.items():
            part = both.enter_context(atomic_path(out.with_suffix(suffix)))
            with open(part, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
    return sum(map(len, contents.values()))
