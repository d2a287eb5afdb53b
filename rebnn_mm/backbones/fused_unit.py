"""When a unit of a 1-bit block runs as one autograd function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm import native
from rebnn_mm.estimators import CLIPPED, POLYNOMIAL
from rebnn_mm.layers import BinaryConv2d, ChannelShift, RPReLU
from rebnn_mm.layers.fused import fuses, is_watched, operation_of, scale_and_sign
from rebnn_mm.layers.unit import UnitOperation, unit_product

_LARGEST = 1 << 15  # products in a sum: integers are kept in 16 bits


def unit_fuses(unit: Any, x: Tensor, shortcut: Tensor) -> bool:
    """Whether the unit's result for ``x`` may come from the function: in training, where nothing looks in between.

    In evaluation its parts run one by one, with a gradient too: the function rounds in another order, and a packed
    network promises the bits of the trained one.
    """
    return (
        torch.is_grad_enabled()
        and unit.training
        and isinstance(unit.conv, BinaryConv2d)
        and fuses(unit.conv, x)
        and not torch.is_autocast_enabled("cpu")
        and all(t.is_cpu and t.dtype == torch.float32 and t.is_contiguous() for t in (x, shortcut))
        and shortcut.numel() > shortcut.shape[1]  # a norm wants more than one value
        and _is_stock(unit)
        and native.kernels() is not None
    )


def _is_stock(unit: Any) -> bool:
    """Whether the unit is made of parts that the function knows, and nobody changed or watches them."""
    conv, norm = unit.conv, unit.norm
    return (
        conv.bias is None
        and conv.input_norm is None
        and not conv.shortcut
        and conv.padding_mode == "zeros"
        and conv.weight[0].numel() < _LARGEST
        and conv.estimator.slope() in (POLYNOMIAL, CLIPPED)
        and type(norm) is nn.BatchNorm2d
        and norm.affine
        and norm.running_mean is not None
        and type(unit.act) in (RPReLU, nn.PReLU, nn.Identity)
        and type(unit.shift) in (ChannelShift, nn.Identity)
        and not any(is_watched(part) for part in _parts(unit))
    )


def _parts(unit: Any) -> list[nn.Module]:
    """All modules that the unit calls; ``unit.modules()`` takes longer than the rest of the question."""
    parts = [unit.shift, unit.conv, unit.norm, unit.act]
    return [*parts, unit.act.before, unit.act.prelu, unit.act.after] if isinstance(unit.act, RPReLU) else parts


def fused_unit(unit: Any, x: Tensor, shortcut: Tensor) -> Tensor:
    """The unit's result: (N, C_in, H, W) and the shortcut's (N, C_out, H', W') -> (N, C_out, H', W')."""
    conv, act = unit.conv, unit.act
    scale, how = scale_and_sign(conv)
    prelu = act.prelu if isinstance(act, RPReLU) else act if isinstance(act, nn.PReLU) else None
    before, after = (act.before.shift, act.after.shift) if isinstance(act, RPReLU) else (None, None)
    op = UnitOperation(operation_of(conv, how, torch.float32), conv.estimator.slope() == POLYNOMIAL, unit.norm)
    shift = unit.shift.shift if isinstance(unit.shift, ChannelShift) else None
    activation = before, None if prelu is None else prelu.weight, after
    return unit_product(x, None if shortcut is x else shortcut, how.latent, scale, shift, activation, op)
