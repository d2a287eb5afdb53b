"""1-bit units in OpenVINO's operators: binarization, binary convolution and the steps behind it.

A sign is a ``FakeQuantize`` of two levels with ``input_low == input_high`` and the outputs 0 and 1, and the weight is a
``u1`` constant: OpenVINO's CPU plugin computes this form on bits from end to end. Of a ``FakeQuantize`` to -1 and +1 in
front of an ordinary ``Convolution`` it makes a binary convolution too, but packs the signs in a loop that costs more
than the convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rebnn_mm.deploy.operation.bits import from_bits
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import InputSide
from rebnn_mm.deploy.targets.onnx.units import VECTORS
from rebnn_mm.deploy.targets.openvino.thresholds import sign_thresholds

UNIT = "/1-bit"  # how the names of the products of 1-bit layers end


def convert_unit(node: Any) -> list[Any]:
    """A node ``rebnn_mm.BinaryConv2d`` or ``rebnn_mm.BinaryLinear`` of the packed ONNX form (docs/onnx.md).

    Args:
        node: A ``NodeContext`` of OpenVINO's ONNX frontend.
    """
    tensors = {name: value for i, name in enumerate(VECTORS) if (value := _constant(node, 3 + i)) is not None}
    bits = node.get_input(1).get_node()
    name = bits.get_friendly_name().removesuffix(".weight") + UNIT
    linear = len(node.get_attribute("weight_shape")) == 2
    spec = _spec(node, linear)
    weight = from_bits(torch.from_numpy(bits.data.copy()), spec.weight_shape)
    x, shortcut = node.get_input(0), _given(node, 2)
    if not linear:
        return [_behind(_product(x, weight, spec, tensors, name), shortcut, tensors, node)]
    image, around = (None if value is None else _as_image(value) for value in (x, shortcut))
    y = _behind(_product(image, weight, spec, tensors, name), around, tensors, node)
    return [_as_rows(y, x)]


def _spec(node: Any, linear: bool) -> ConvSpec:
    shape = list(node.get_attribute("weight_shape"))
    if linear:
        return ConvSpec.linear(*shape)
    pads = list(node.get_attribute("pads"))
    return ConvSpec.of(
        shape,
        list(node.get_attribute("strides")),
        pads[:2],
        list(node.get_attribute("dilations")),
        int(node.get_attribute("group")),
    )


def _given(node: Any, index: int) -> Any:
    """An input, or None where an optional one was left out."""
    if index >= node.get_input_size():
        return None
    value = node.get_input(index)
    return None if value.get_node().get_type_name() == "NullNode" else value


def _constant(node: Any, index: int) -> Tensor | None:
    value = _given(node, index)
    return None if value is None else torch.from_numpy(np.array(value.get_node().data, dtype=np.float32))


def _product(x: Any, weight: Tensor, spec: ConvSpec, tensors: Mapping[str, Tensor], name: str) -> Any:
    """``Conv(sign(...), weight)`` of (N, C, H, W), sums of -1 and +1."""
    norm = (tensors["input_scale"], tensors["input_offset"]) if "input_scale" in tensors else None
    thresholds, falling = sign_thresholds(InputSide(tensors.get("shift"), norm), spec.c_in)
    weight = torch.where(_by_output(falling, spec), -weight, weight)
    if spec.groups > 1 or spec.c_in % 8:
        return _float_product(x, weight, thresholds, spec, name)
    from openvino import Shape, Tensor, Type, opset1
    from openvino.op import Constant

    threshold = _vector(thresholds)
    bits = np.packbits((weight > 0).flatten().numpy(), bitorder="little")
    # copied: a tensor that shares the array's memory outlives it
    constant = Constant(Tensor(bits, Shape(list(weight.shape)), Type.u1), shared_memory=False)
    constant.set_friendly_name(f"{name}/weight")
    signs = opset1.fake_quantize(x, threshold, threshold, _number(0.0), _number(1.0), levels=2, name=f"{name}/sign")
    pads = list(spec.padding)
    y = opset1.binary_convolution(
        signs, constant, list(spec.stride), pads, pads, list(spec.dilation), "xnor-popcount", 0.0, name=name
    )
    return y.output(0)


def _float_product(x: Any, weight: Tensor, thresholds: Tensor, spec: ConvSpec, name: str) -> Any:
    """The same in real numbers.

    OpenVINO has no binary convolution of groups, and its 2026.4 gives wrong sums where the channels of a pixel do not
    fill whole bytes.
    """
    from openvino import opset1

    signs = opset1.select(opset1.greater(x, _vector(thresholds)), _number(1.0), _number(-1.0))
    per_group = weight.view(spec.groups, spec.c_out // spec.groups, *weight.shape[1:]).contiguous().numpy()
    pads = list(spec.padding)
    y = opset1.group_convolution(
        signs, _array(per_group), list(spec.stride), pads, pads, list(spec.dilation), name=name
    )
    return y.output(0)


def part_signs(model: Any) -> None:
    """Keep signs out of the product before them where OpenVINO 2026.4 takes them wrong: of ``prelu(...) + constant``.

    It computes what stands behind a product, and a sign at its end, in one loop, which leaves out that sum. Another
    reader of the value or a step that is none of this loop's, here a maximum that changes nothing, prevents it.
    """
    from openvino import opset1

    for sign in model.get_ordered_ops():
        if not sign.get_friendly_name().endswith(f"{UNIT}/sign"):
            continue
        value = sign.input_value(0)
        sources = [source.get_node().get_type_name() for source in value.get_node().input_values()]
        if value.get_node().get_type_name() == "Add" and "PRelu" in sources and len(value.get_target_inputs()) == 1:
            apart = opset1.maximum(value, _number(float(np.finfo(np.float32).min)))
            sign.input(0).replace_source_output(apart.output(0))
    model.validate_nodes_and_infer_types()


def _by_output(channels: Tensor, spec: ConvSpec) -> Tensor:
    """One value for each input channel, (C_in,), at its places in the weight: (C_out, C_in/groups, 1, 1)."""
    grouped = channels.view(spec.groups, 1, -1).expand(-1, spec.c_out // spec.groups, -1)
    return grouped.reshape(spec.c_out, -1, 1, 1)


def _behind(y: Any, shortcut: Any, tensors: Mapping[str, Tensor], node: Any) -> Any:
    """The unit's steps behind the product, norms and constants folded into one step each."""
    scale, offset = _folded(tensors)
    last = node.has_attribute("shortcut_last") and bool(node.get_attribute("shortcut_last"))
    before = tensors.get("before")
    if before is not None and (shortcut is None or last):
        offset, before = (before if offset is None else offset + before), None
    y = _affine(y, scale, offset)
    if shortcut is not None and not last:
        y = _op("add", y, shortcut)
    y = _affine(y, None, before)
    if "slope" in tensors:
        y = _op("prelu", y, _array(tensors["slope"].reshape(-1).numpy()))
    after = tensors.get("after")
    if node.has_attribute("clamp"):
        y = _affine(y, None, after)
        lowest, highest = (float(bound) for bound in node.get_attribute("clamp"))
        y, after = _clamped(y, lowest, highest), None
    last_scale, last_offset = tensors.get("last_scale"), tensors.get("last_offset")
    if after is not None:
        # a scale comes with its offset
        last_offset = after if last_scale is None or last_offset is None else after * last_scale + last_offset
    y = _affine(y, last_scale, last_offset)
    return _op("add", y, shortcut) if shortcut is not None and last else y


def _folded(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """alpha, bias and norm as (scale, offset)."""
    scale, offset = tensors["alpha"], tensors.get("bias")
    if "scale" in tensors:
        scale = scale * tensors["scale"]
        offset = tensors["offset"] if offset is None else offset * tensors["scale"] + tensors["offset"]
    return scale, offset


def _clamped(y: Any, lowest: float, highest: float) -> Any:
    if (lowest, highest) == (0.0, float("inf")):
        return _op("relu", y)
    limit = float(np.finfo(np.float32).max)
    return _op("clamp", y, max(lowest, -limit), min(highest, limit))


def _affine(y: Any, scale: Tensor | None, offset: Tensor | None) -> Any:
    if scale is not None:
        y = _op("multiply", y, _vector(scale))
    return y if offset is None else _op("add", y, _vector(offset))


def _as_image(x: Any) -> Any:
    """(..., C) -> (rows, C, 1, 1)."""
    channels = x.get_partial_shape()[-1].get_length()
    return _op("reshape", x, _array(np.array([-1, channels, 1, 1])), False)


def _as_rows(y: Any, like: Any) -> Any:
    """(rows, C, 1, 1) -> (..., C), the leading sizes those of ``like``."""
    from openvino import opset1, opset3

    leading = _array(np.arange(like.get_partial_shape().rank.get_length() - 1))
    sizes = _op("gather", opset3.shape_of(like), leading, _array(np.array(0)))
    channels = _array(np.array([y.get_partial_shape()[1].get_length()]))
    return _op("reshape", y, opset1.concat([sizes, channels], 0), False)


def _op(kind: str, *arguments: Any) -> Any:
    from openvino import opset1

    return getattr(opset1, kind)(*arguments).output(0)


def _vector(values: Tensor) -> Any:
    """One number a channel, to be combined with an image."""
    return _array(values.reshape(1, -1, 1, 1).numpy())


def _number(value: float) -> Any:
    return _array(np.array(value, dtype=np.float32))


def _array(values: np.ndarray) -> Any:
    from openvino.op import Constant

    return Constant(np.ascontiguousarray(values).reshape(values.shape), shared_memory=False)
