"""A packed file as an ONNX graph: in standard operators that any run-time takes, or with the weights packed.

``form='float'`` uses the standard operators only: a sign is ``Where(x >= 0, 1, -1)``, a binary weight is int8 in
the file and cast to float. It runs everywhere and is as slow as a real-valued network. ``form='packed'`` has one
node ``rebnn_mm.BinaryConv2d`` for each 1-bit unit, described in docs/onnx.md, for run-times that implement it.
``form='real'`` is for comparing speed only: the same network without signs and shifts, a ReLU for each RPReLU and
every norm folded, which is the least that a real-valued network of this shape can cost; its scores mean nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rebnn_mm.deploy.card import ModelCard
from rebnn_mm.deploy.format import RebnnFileError, read_file
from rebnn_mm.deploy.record import EXPANSIONS, NetworkRecord, ResNetRecord
from rebnn_mm.deploy.weights import Weights
from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import write_bytes

DOMAIN, DOMAIN_VERSION, OPSET = "rebnn_mm", 1, 19
FORMS = ("float", "packed", "real")


def export_onnx(path: str | Path, out: str | Path, form: str = "float") -> None:
    """Write the network of a ``.rebnn`` file as ONNX, batch and image size left open.

    A classifier takes ``images``, float RGB (N, 3, H, W) in 0..255, and gives ``scores``, (N, classes), as
    :func:`rebnn_mm.deploy.load_model` does; a backbone takes its normalized input and gives ``stage1``..``stage4``.
    Results agree up to rounding: run-times fuse and reorder real-valued operations.

    Args:
        path: A ``.rebnn`` file of a classifier or backbone.
        out: The file to write.
        form: ``'float'``, ``'packed'`` or ``'real'``; see the module's docstring.

    Raises:
        FileNotFoundError: ``path`` is no file.
        RebnnFileError: It is damaged, or holds no network record (a detector).
        ValueError: An unknown form.
        ModuleNotFoundError: ``pip install rebnn_mm[onnx]`` was not done.
    """
    import onnx

    if form not in FORMS:
        raise UserError(f"form={form!r}: one of {FORMS}")
    file = read_file(path)
    if file.info.get("network") is None:
        raise RebnnFileError(f"{path} has no network record: ONNX export takes ReBNNResNet classifiers and backbones")
    try:
        record, card = NetworkRecord.from_plain(file.info["network"]), ModelCard.from_plain(file.info)
    except ValueError as error:
        raise RebnnFileError(f"{path}: the header does not describe a network: {error}") from None
    graph = _Graph(form)
    weights = Weights(file)
    if record.classes is None:
        source = "input"
        outputs = _add_backbone(graph, source, record.backbone, weights)
    else:
        source = "images"
        outputs = _add_classifier(graph, source, record, card, weights)
    weights.check_all_used()
    model = graph.model(source, record.backbone.in_channels, outputs)
    if card.classes:
        onnx.helper.set_model_props(model, {"classes": json.dumps(card.classes)})
    onnx.checker.check_model(model)
    write_bytes(out, model.SerializeToString())


class _Graph:
    """Nodes and constants in the order they are added; values are named by the node that makes them."""

    def __init__(self, form: str) -> None:
        self.form = form
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, op: str, *inputs: str, domain: str = "", name: str = "", **attributes: Any) -> str:
        """Append a node with one output, and return that output's name."""
        from onnx import helper

        output = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def constant(self, value: Tensor | np.ndarray, name: str = "") -> str:
        """A constant, and its name."""
        from onnx import numpy_helper

        name = name or f"constant_{len(self.constants)}"
        array = value.numpy() if isinstance(value, Tensor) else value
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def channel(self, value: Tensor) -> str:
        """A constant of one number a channel, to be combined with (N, C, H, W)."""
        return self.constant(value.reshape(-1, 1, 1))

    def affine(self, x: str, norm: tuple[Tensor, Tensor]) -> str:
        """``x * scale + offset``."""
        return self.add("Add", self.add("Mul", x, self.channel(norm[0])), self.channel(norm[1]))

    def model(self, input_name: str, channels: int, outputs: dict[str, list[Any]]) -> Any:
        """The finished model with one image input; ``outputs`` are names with their shapes."""
        from onnx import TensorProto, helper

        inputs = [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["N", channels, "H", "W"])]
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
        graph = helper.make_graph(self.nodes, "rebnn_mm", inputs, results, self.constants)
        opsets = [helper.make_opsetid("", OPSET)]
        if self.form == "packed":
            opsets.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
        return helper.make_model(graph, opset_imports=opsets, producer_name="rebnn_mm", ir_version=9)


def _add_classifier(
    graph: _Graph, x: str, record: NetworkRecord, card: ModelCard, weights: Weights
) -> dict[str, list[Any]]:
    assert record.classes is not None
    if card.preprocessing is not None:
        if card.preprocessing.channel_order == "bgr":
            x = graph.add("Gather", x, graph.constant(np.array([2, 1, 0])), axis=1)
        if card.preprocessing.mean:
            mean, std = (
                np.array(v, np.float32).reshape(-1, 1, 1) for v in (card.preprocessing.mean, card.preprocessing.std)
            )
            x = graph.add("Div", graph.add("Sub", x, graph.constant(mean)), graph.constant(std))
    maps = _add_backbone(graph, x, record.backbone, weights.at("backbone"))
    features, shape = list(maps.items())[-1]
    x = graph.add("Flatten", graph.add("GlobalAveragePool", features))
    head = weights.at("head.fc")
    constants = [graph.constant(head.real("weight", record.classes, shape[1]), "head.fc.weight")]
    if record.head_bias:
        constants.append(graph.constant(head.real("bias", record.classes), "head.fc.bias"))
    x = graph.add("Gemm", x, *constants, transB=1)
    graph.add("Softmax", x, axis=1, name="scores")
    return {"scores": ["N", record.classes]}


def _add_backbone(graph: _Graph, x: str, record: ResNetRecord, weights: Weights) -> dict[str, list[Any]]:
    """Add the backbone; names and shapes of its maps."""
    size, stride = (7, 2) if record.stem == "imagenet" else (3, 1)
    channels = record.base_channels
    kernel = weights.real("stem.0.weight", channels, record.in_channels, size, size)
    x = graph.add("Conv", x, graph.constant(kernel), strides=[stride] * 2, pads=[size // 2] * 4)
    x = graph.affine(x, weights.norm("stem.1", channels))
    if record.stem == "imagenet":
        x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    maps = {}
    for stage, count in enumerate(record.blocks):
        planes = record.base_channels * 2**stage
        for index in range(count):
            own = weights.at(f"layer{stage + 1}.{index}")
            stride = 2 if stage > 0 and index == 0 else 1
            add = _add_basic if record.block == "basic" else _add_bottleneck
            x = add(graph, x, own, channels, planes, stride)
            channels = planes * EXPANSIONS[record.block]
        if stage in record.out_indices:
            x = graph.add("Identity", x, name=f"stage{stage + 1}")
            maps[x] = ["N", channels, f"H{stage + 1}", f"W{stage + 1}"]
    return maps


def _add_basic(graph: _Graph, x: str, weights: Weights, channels: int, planes: int, stride: int) -> str:
    shortcut = _add_downsample(graph, x, weights.at("downsample"), channels, planes, stride)
    return _add_unit(graph, x, shortcut, weights.at("unit"), (planes, channels, 3, 3), stride)


def _add_bottleneck(graph: _Graph, x: str, weights: Weights, channels: int, planes: int, stride: int) -> str:
    group = channels // planes
    # a mean over groups of channels, as a convolution: sizes are open, so that a reshape would need them computed
    mean = graph.constant(np.full((planes, group, 1, 1), 1 / group, np.float32))
    shortcut = graph.add("Conv", x, mean, group=planes)
    y = _add_unit(graph, x, shortcut, weights.at("reduce"), (planes, channels, 1, 1), 1)
    shortcut = _add_pool(graph, y, stride) if stride > 1 else y
    y = _add_unit(graph, y, shortcut, weights.at("spatial"), (planes, planes, 3, 3), stride)
    shortcut = _add_downsample(graph, x, weights.at("downsample"), channels, 4 * planes, stride)
    return _add_unit(graph, y, shortcut, weights.at("expand"), (4 * planes, planes, 1, 1), 1)


def _add_pool(graph: _Graph, x: str, stride: int) -> str:
    return graph.add("AveragePool", x, kernel_shape=[stride] * 2, strides=[stride] * 2, ceil_mode=1)


def _add_downsample(graph: _Graph, x: str, weights: Weights, channels: int, out: int, stride: int) -> str:
    if channels == out and stride == 1:
        return x
    first = 1 if stride > 1 else 0
    if stride > 1:
        x = _add_pool(graph, x, stride)
    x = graph.add("Conv", x, graph.constant(weights.real(f"{first}.weight", out, channels, 1, 1)))
    return graph.affine(x, weights.norm(str(first + 1), out))


def _add_unit(graph: _Graph, x: str, shortcut: str, weights: Weights, shape: tuple[int, ...], stride: int) -> str:
    """One 1-bit unit: shift -> convolution -> norm, + shortcut, -> RPReLU."""
    out, channels, size, _ = shape
    attributes: dict[str, Any] = dict(strides=[stride] * 2, pads=[size // 2] * 4)
    shift, alpha = weights.real("shift.shift", channels), weights.real("conv.alpha", out, 1, 1, 1).flatten()
    norm = weights.norm("norm", out)
    act = [weights.real(f"act.{name}", out) for name in ("before.shift", "prelu.weight", "after.shift")]
    if graph.form == "packed":
        vectors = [graph.constant(value) for value in (shift, alpha, *norm, *act)]
        packed = graph.constant(weights.bits("conv.weight", *shape))
        attributes.update(weight_shape=list(shape), dilations=[1, 1], group=1)
        return graph.add("BinaryConv2d", x, packed, shortcut, *vectors, domain=DOMAIN, **attributes)
    if graph.form == "real":
        kernel = weights.signs("conv.weight", *shape) * (alpha * norm[0]).view(-1, 1, 1, 1)
        y = graph.add("Conv", x, graph.constant(kernel), graph.constant(norm[1]), **attributes)
        return graph.add("Relu", graph.add("Add", y, shortcut))
    zero, one, minus = (graph.constant(np.array(value, np.float32)) for value in (0, 1, -1))
    x = graph.add("Where", graph.add("GreaterOrEqual", graph.add("Add", x, graph.channel(shift)), zero), one, minus)
    signs = graph.constant(weights.signs("conv.weight", *shape).numpy().astype(np.int8))
    x = graph.add("Conv", x, graph.add("Cast", signs, to=1), **attributes)  # 1 is float32
    x = graph.add("Mul", x, graph.channel(alpha))
    x = graph.add("Add", graph.add("Add", graph.affine(x, norm), shortcut), graph.channel(act[0]))
    return graph.add("Add", graph.add("PRelu", x, graph.channel(act[1])), graph.channel(act[2]))
