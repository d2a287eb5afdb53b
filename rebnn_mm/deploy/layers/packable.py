"""Which trained layers have a packed form, and what of them the packed form needs."""

from __future__ import annotations

from typing import Any, TypeGuard

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from rebnn_mm.errors import UserError
from rebnn_mm.estimators import ElasticSTE
from rebnn_mm.layers import BinaryConv2d, BinaryLayer, BinaryLinear
from rebnn_mm.layers.fused import computes_as

Pad = tuple[tuple[int, int, int, int], str]
"""(left, right, top, bottom) and a mode, as ``torch.nn.functional.pad`` takes them."""


def is_packed(module: nn.Module) -> TypeGuard[BinaryLayer]:
    """Whether a layer is 1-bit in weight and input, so that the kernels run it."""
    return isinstance(module, BinaryLayer) and module.binarizes_weight and module.binarizes_input


def check_layer(name: str, layer: BinaryLayer) -> None:
    """Raise ValueError if ``layer`` computes something that no packed layer does; ``name`` is for the message."""
    if not _keeps_forward(layer):
        raise UserError(
            f"{name} is a {type(layer).__name__} with a forward of its own; a file holds layers that compute as "
            "BinaryConv2d and BinaryLinear do: put one of those in its place before exporting"
        )
    norm: Any = layer.input_norm
    if isinstance(norm, _NormBase) and not norm.track_running_stats:
        raise UserError(f"{name} has an input_norm without running statistics, whose output depends on the batch")
    if isinstance(layer, BinaryConv2d):
        padding_of(layer, name)


def check_alone(name: str, layer: BinaryLayer) -> None:
    """Raise ValueError if ``layer`` is packed within a graph only; ``name`` is for the message."""
    if isinstance(getattr(layer, "estimator", None), ElasticSTE):
        raise UserError(
            f"{name} has an ElasticSTE, whose threshold and scale a file holds in a graph only, and this part of the "
            "model is packed layer by layer (the export's report says why): give export_model an input for the whole "
            "model (check), or the layer another estimator"
        )


def padding_of(layer: Any, name: str = "a layer") -> tuple[tuple[int, int], Pad | None]:
    """Zeros that the convolution adds on each side, (rows, columns), and what is padded in front of it in another mode.

    Raises:
        ValueError: ``layer``, which the message calls ``name``, pads its sides with different numbers of zeros.
    """
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    if layer.padding_mode != "zeros":
        return (0, 0), ((left, right, top, bottom), layer.padding_mode)
    if left != right or top != bottom:
        raise UserError(f"{name} pads unevenly with zeros (padding='same'): give the padding as a number")
    return (top, left), None


def _keeps_forward(layer: nn.Module) -> bool:
    """Whether a layer computes what the packed ones do: sign, 1-bit product, scale, bias, in the base's order."""
    for base in (BinaryConv2d, BinaryLinear):
        if isinstance(layer, base):
            return computes_as(type(layer), base)
    return False
