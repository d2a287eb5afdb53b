"""1-bit units in ONNX, in each of the forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.deploy.graph.unit import Unit
from rebnn_mm.deploy.operation.bits import from_bits
from rebnn_mm.deploy.operation.steps import TENSORS
from rebnn_mm.deploy.targets.onnx.builder import Builder, Value

DOMAIN, DOMAIN_VERSION = "rebnn_mm", 2
QONNX_DOMAIN, QONNX_DOMAIN_VERSION = "qonnx.custom_op.general", 1
INPUT_SIDE = ("shift", "input_scale", "input_offset")
# of the packed operators, behind X, the bits and the shortcut
VECTORS = tuple(name for name in TENSORS if not name.startswith("sign_"))
_INF = float("inf")


@dataclass(frozen=True)
class Signs:
    """Signs between two units, which ONNX has not: what they are taken of, and the steps in front of the sign.

    Attributes:
        x: The first unit's result.
        side: The second unit's constants, of :data:`INPUT_SIDE`.
    """

    x: Value
    side: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class UnitArguments:
    """A unit with its values in place of the graph's nodes.

    Attributes:
        x: What its sign is taken of, with the steps in front of it.
        bits: Of the binary weight.
        tensors: Of :data:`rebnn_mm.deploy.operation.steps.TENSORS`, those that are there.
        residual: The shortcut.
    """

    unit: Unit
    x: Signs
    bits: Tensor
    tensors: Mapping[str, Tensor]
    residual: Value | None

    @property
    def geometry(self) -> dict[str, Any]:
        """Attributes of ONNX's Conv."""
        spec = self.unit.spec
        own: dict[str, Any] = dict(strides=list(spec.stride), pads=[*spec.padding, *spec.padding])
        return dict(own, dilations=list(spec.dilation), group=spec.groups)

    def acts(self) -> bool:
        """Whether there is an activation in it."""
        return self.unit.clamp is not None or any(name in self.tensors for name in ("before", "slope", "after"))


def add_unit(g: Builder, unit: Unit, value_of: Callable[[Any], Any]) -> Any:
    """Add a unit; with signs it gives :class:`Signs`, with both (floats, signs).

    Args:
        g: The ONNX graph.
        unit: What a node says.
        value_of: The value of a graph's node.
    """
    tensors = {name: value_of(node) for name, node in unit.tensors.items()}
    x = value_of(unit.x)
    if not isinstance(x, Signs):
        x = Signs(g.value(x), {name: tensors[name] for name in INPUT_SIDE if name in tensors})
    residual = None if unit.residual is None else g.value(value_of(unit.residual))
    y = _FORMS[g.form](g, UnitArguments(unit, x, value_of(unit.bits), tensors, residual))
    if not unit.signs:
        return y
    signs = Signs(y, {name: tensors[_sign(name)] for name in INPUT_SIDE if _sign(name) in tensors})
    return (y, signs) if unit.floats else signs


def _sign(name: str) -> str:
    return f"sign_{name.removeprefix('input_')}"


def weight_of(g: Builder, bits: Tensor, shape: tuple[int, ...]) -> Value:
    """A binary weight in {-1, +1} from its bits, by operators on constants: run-times evaluate them on loading.

    The order of the bits is that of :mod:`rebnn_mm.deploy.operation.bits`. QONNX has no bits: there it is float32.
    """

    def make() -> Value:
        if g.form == "qonnx":
            return _bipolar(g, g.constant(from_bits(bits, shape)))
        one, minus = g.scalar(1.0), g.scalar(-1.0)
        masks = g.remembered("masks", lambda: g.constant(torch.tensor([1 << i for i in range(8)], dtype=torch.uint8)))
        ones = g.op("BitwiseAnd", g.constant(bits, (-1, 1)), masks, rank=2)
        w = g.op("Where", g.cast(ones, torch.bool), one, minus, dtype=torch.float32)
        if prod(shape) % 8:
            w = g.op("Slice", g.reshape(w, [-1]), *(g.integers([n]) for n in (0, prod(shape), 0)))
        kernel = shape[2:]
        if prod(kernel) == 1:
            return g.reshape(w, shape)
        w = g.reshape(w, [shape[0], *kernel, shape[1]])
        return g.op("Transpose", w, perm=[0, len(shape) - 1, *range(1, len(shape) - 1)])

    return g.remembered(("weight", id(bits), shape), make)


def _bipolar(g: Builder, x: Value) -> Value:
    """QONNX's sign: +1 where ``x >= 0``, else -1."""
    return g.op("BipolarQuant", x, g.scalar(1.0), domain=QONNX_DOMAIN)


def _channels(g: Builder, unit: Unit, vector: Tensor) -> Value:
    """One number a channel, to be combined with the unit's input or output."""
    return g.constant(vector, (-1,) if unit.is_linear else (-1, 1, 1))


def _affine(g: Builder, unit: Unit, x: Value, tensors: Mapping[str, Tensor], scale: str, offset: str) -> Value:
    if scale not in tensors:
        return x
    return _plus(g, unit, g.op("Mul", x, _channels(g, unit, tensors[scale])), tensors, offset)


def _plus(g: Builder, unit: Unit, x: Value, tensors: Mapping[str, Tensor], name: str) -> Value:
    return g.op("Add", x, _channels(g, unit, tensors[name])) if name in tensors else x


def _sum(g: Builder, y: Value, residual: Value | None, wanted: bool = True) -> Value:
    return g.op("Add", y, residual) if wanted and residual is not None else y


def clip(g: Builder, y: Value, lowest: float, highest: float) -> Value:
    """``y`` limited to a range; an infinite bound is none."""
    if (lowest, highest) == (0, _INF):
        return g.op("Relu", y)
    return g.op("Clip", y, *(None if abs(bound) == _INF else g.scalar(bound, y.dtype) for bound in (lowest, highest)))


def _signs(g: Builder, unit: Unit, x: Signs) -> Value:
    def make() -> Value:
        y = _plus(g, unit, x.x, x.side, "shift")
        y = _affine(g, unit, y, x.side, "input_scale", "input_offset")
        if g.form == "qonnx":
            return _bipolar(g, y)
        positive = g.op("GreaterOrEqual", y, g.scalar(0.0), dtype=torch.bool)
        return g.op("Where", positive, g.scalar(1.0), g.scalar(-1.0), dtype=torch.float32)

    return g.remembered(("sign", x.x.name, *(id(x.side.get(name)) for name in INPUT_SIDE)), make)


def _float(g: Builder, a: UnitArguments) -> Value:
    """Every step as a standard operator; in QONNX's form but for the signs."""
    unit, tensors = a.unit, a.tensors
    b = _signs(g, unit, a.x)
    if unit.is_linear:
        weight = weight_of(g, a.bits, unit.spec.weight_shape[:2])
        y = g.op("MatMul", b, g.op("Transpose", weight, perm=[1, 0]))
    else:
        y = g.op("Conv", b, weight_of(g, a.bits, unit.spec.weight_shape), **a.geometry)
    y = g.op("Mul", y, _channels(g, unit, tensors["alpha"]))
    y = _affine(g, unit, _plus(g, unit, y, tensors, "bias"), tensors, "scale", "offset")
    y = _sum(g, y, a.residual, not unit.residual_last)
    y = _plus(g, unit, y, tensors, "before")
    if "slope" in tensors:
        y = g.op("PRelu", y, _channels(g, unit, tensors["slope"]))
    y = _plus(g, unit, y, tensors, "after")
    if unit.clamp is not None:
        y = clip(g, y, *unit.clamp)
    y = _affine(g, unit, y, tensors, "last_scale", "last_offset")
    return _sum(g, y, a.residual, unit.residual_last)


def _packed(g: Builder, a: UnitArguments) -> Value:
    """One node of the package's own domain."""
    unit = a.unit
    tensors = {**a.tensors, **a.x.side}
    vectors = [None if name not in tensors else g.constant(tensors[name], (-1,)) for name in VECTORS]
    kind, shape = "BinaryConv2d", list(unit.spec.weight_shape)
    own: dict[str, Any] = dict(a.geometry)
    if unit.is_linear:
        kind, shape, own = "BinaryLinear", shape[:2], {}
    if unit.clamp is not None:
        own["clamp"] = list(unit.clamp)
    if unit.residual_last:
        own["shortcut_last"] = 1
    return g.op(kind, a.x.x, a.bits, a.residual, *vectors, domain=DOMAIN, weight_shape=shape, **own)


def _real(g: Builder, a: UnitArguments) -> Value:
    """A real-valued layer of the same shape, for its time only."""
    unit, tensors = a.unit, a.tensors
    scale = tensors["alpha"] * tensors.get("scale", 1)
    bias = tensors.get("bias", torch.zeros(())) * tensors.get("scale", 1) + tensors.get("offset", 0)
    bias = bias.expand(unit.spec.c_out)
    weight = from_bits(a.bits, unit.spec.weight_shape) * scale.view(-1, 1, 1, 1)
    if unit.is_linear:
        y = g.op("Add", g.op("MatMul", a.x.x, weight.flatten(1).t().contiguous()), bias)
    else:
        y = g.op("Conv", a.x.x, weight, bias, **a.geometry)
    y = _sum(g, y, a.residual, not unit.residual_last)
    y = g.op("Relu", y) if a.acts() else y
    return _sum(g, y, a.residual, unit.residual_last)


_FORMS: dict[str, Callable[[Builder, UnitArguments], Value]] = {
    "float": _float,
    "packed": _packed,
    "qonnx": _float,
    "real": _real,
}
FORMS = tuple(_FORMS)
