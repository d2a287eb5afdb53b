"""Functions of ``torch`` for small operators: a call takes half the time of that by the ATen name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_aten = torch.ops.aten

# the same operators, with the same arguments in the same places
DIRECT: dict[Any, Callable[..., Any]] = {
    _aten.add.Tensor: torch.add,
    _aten.cat.default: torch.cat,
    _aten.div.Tensor: torch.div,
    _aten.flatten.using_ints: torch.flatten,
    _aten.layer_norm.default: torch.layer_norm,
    _aten.matmul.default: torch.matmul,
    _aten.mul.Tensor: torch.mul,
    _aten.permute.default: torch.permute,
    _aten.relu.default: torch.relu,
    _aten.reshape.default: torch.reshape,
    _aten.select.int: torch.select,
    _aten.softmax.int: torch.softmax,
    _aten.split_with_sizes.default: torch.split_with_sizes,
    _aten.transpose.int: torch.transpose,
    _aten.unflatten.int: torch.unflatten,
}
