"""From a ``.rebnn`` file to an ``.onnx`` file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.deploy.graph.traced import InputSpec
from rebnn_mm.deploy.load import PackedClassifier
from rebnn_mm.deploy.targets.network import Network, chosen_network, graphs_in_order
from rebnn_mm.deploy.targets.onnx.builder import ONNX_TYPES, Builder, Value
from rebnn_mm.deploy.targets.onnx.convert import convert, leaves_by_name
from rebnn_mm.deploy.targets.onnx.units import DOMAIN, DOMAIN_VERSION, FORMS, QONNX_DOMAIN, QONNX_DOMAIN_VERSION
from rebnn_mm.errors import MissingPackageError, UserError
from rebnn_mm.files.atomic import refuse_same_file, write_bytes

OPSET = 19


def export_onnx(path: str | Path, out: str | Path, form: str = "float", part: str | None = None) -> None:
    """Write a network of a ``.rebnn`` file as ONNX; sizes that the file leaves open stay open.

    A classifier takes ``images``, float RGB (N, 3, H, W) in 0..255, and gives ``scores``, (N, classes), as
    :func:`rebnn_mm.deploy.load_model` does. Any other network takes ``input`` (``input_0``, ``input_1``, ... if there
    are several) and gives ``output``, ``output_0``, ``output_1``, ... of a list, or the keys of a dict. Results agree
    up to rounding: run-times fuse and reorder real-valued operations.

    Args:
        path: A ``.rebnn`` file that holds a graph.
        out: The file to write.
        form: ``'float'``, ``'packed'``, ``'qonnx'`` or ``'real'``; see :mod:`rebnn_mm.deploy.targets.onnx`.
        part: Of a model that is no graph as a whole, a detector, the part to write: ``'backbone'``.

    Raises:
        MissingFileError: ``path`` is no file.
        RebnnFileError: It is damaged, or holds no graph.
        UserError: An unknown form or part; an operator that this export does not know; ``out`` is ``path``.
        MissingPackageError: ``pip install rebnn_mm[onnx]`` was not done.
    """
    check_installed()
    import onnx

    if form not in FORMS:
        raise UserError(f"form={form!r}: one of {FORMS}")
    refuse_same_file(path, out)
    network = chosen_network(path, part)
    model = to_onnx(network, form)
    if isinstance(network, PackedClassifier) and network.card.classes:
        onnx.helper.set_model_props(model, {"classes": json.dumps(network.card.classes)})
    onnx.checker.check_model(model)
    write_bytes(out, model.SerializeToString())


def check_installed() -> None:
    """Raise MissingPackageError unless the package onnx is installed."""
    try:
        import onnx  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise MissingPackageError("ONNX export needs the package onnx: pip install onnx") from None


def to_onnx(network: Network, form: str, names: Sequence[str] | None = None) -> Any:
    """The ``onnx.ModelProto`` of a loaded network, or of several that are called one after the other.

    Args:
        network: A classifier's inputs are pixels and its outputs scores.
        form: See :mod:`rebnn_mm.deploy.targets.onnx`.
        names: Of the inputs; None is ``input``, or ``input_0``, ``input_1``, ...

    Raises:
        UserError: As :func:`export_onnx` does.
    """
    g = Builder(form)
    if isinstance(network, PackedClassifier):
        images = g.input("images", torch.float32, 4)
        logits = convert(g, network.network.traced(), [_normalized(g, network, images)])
        scores = g.op("Softmax", logits, axis=1, name="scores")
        return model_of(g, [images], network.network.traced().inputs, [scores])
    parts = graphs_in_order(network)
    specs = parts[0].traced().inputs
    if names is None:
        names = ["input"] if len(specs) == 1 else [f"input_{index}" for index in range(len(specs))]
    inputs = [
        g.input(name, getattr(torch, spec.dtype), len(spec.shape)) for name, spec in zip(names, specs, strict=True)
    ]
    values: list[Value | Tensor] = list(inputs)
    for part in parts:
        found = leaves_by_name(convert(g, part.traced(), [g.value(value) for value in values]), "output")
        values = list(found.values())
    return model_of(g, inputs, specs, [g.op("Identity", value, name=name) for name, value in found.items()])


def _normalized(g: Builder, network: PackedClassifier, x: Value) -> Value:
    if network.flips:
        channels = network.network.inputs[0].shape[1]
        assert channels is not None, "the first convolution fixes it"
        x = g.op("Gather", x, g.integers(range(channels - 1, -1, -1)), axis=1)
    if network.mean.numel():
        x = g.op("Div", g.op("Sub", x, network.mean), network.std)
    return x


def model_of(g: Builder, inputs: list[Value], specs: list[InputSpec], outputs: list[Value]) -> Any:
    """The ``onnx.ModelProto`` of what was built."""
    from onnx import helper, shape_inference

    def info(value: Value, shape: list[Any] | None) -> Any:
        return helper.make_tensor_value_info(value.name, ONNX_TYPES[value.dtype], shape)

    ins = [info(value, _open_sizes(spec)) for value, spec in zip(inputs, specs, strict=True)]
    outs = [info(value, None if value.rank is None else [None] * value.rank) for value in outputs]
    graph = helper.make_graph(g.nodes, "rebnn_mm", ins, outs, g.initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    if g.form == "packed":
        opsets.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    if g.form == "qonnx":
        opsets.append(helper.make_opsetid(QONNX_DOMAIN, QONNX_DOMAIN_VERSION))
    model = helper.make_model(graph, opset_imports=opsets, producer_name="rebnn_mm", ir_version=9)
    inferred = {value.name: value for value in shape_inference.infer_shapes(model).graph.output}
    for value in model.graph.output:
        value.CopyFrom(inferred[value.name])
    return model


def _open_sizes(spec: InputSpec) -> list[int | str]:
    """The shape with a name for each open size; (N, L) are a batch of sequences."""
    names = (
        ["N", "C", "H", "W"] if len(spec.shape) == 4 else ["N", "L", *(f"D{dim}" for dim in range(2, len(spec.shape)))]
    )
    return [name if size is None else size for name, size in zip(names, spec.shape, strict=False)]
