"""Which trained layers a packed one can stand for."""

from __future__ import annotations

from typing import TypeGuard

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from rebnn_mm.layers import BinaryConv2d, BinaryLayer, BinaryLinear


def folded_norms(model: nn.Module) -> set[nn.Module]:
    """Batch norms that a file holds as ``scale`` and ``offset``: those in front of the sign of a layer."""
    norms = {getattr(module, "input_norm", None) for module in model.modules() if is_packed(module)}
    return {norm for norm in norms if isinstance(norm, _NormBase)}


def is_packed(module: nn.Module) -> TypeGuard[BinaryLayer]:
    """Whether a layer is 1-bit in weight and input, so that the kernels run it."""
    return isinstance(module, BinaryLayer) and module.binarizes_weight and module.binarizes_input


def keeps_forward(layer: nn.Module) -> bool:
    """Whether a layer computes what the packed ones do: sign, 1-bit product, scale, bias, in the base's order."""
    for base in (BinaryConv2d, BinaryLinear):
        if isinstance(layer, base):
            kept = ("forward", "_binary_input", "_scaled_conv", "_scaled_product", "_conv_forward")
            return all(getattr(type(layer), name, None) is getattr(base, name, None) for name in kept)
    return False
