"""Arguments of pools as numbers for both directions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import fx


class MaxPool(NamedTuple):
    """Arguments of ``max_pool2d``, (vertical, horizontal) each."""

    kernel: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    ceil_mode: bool


def read_max_pool(node: fx.Node) -> MaxPool | None:
    """The arguments of a max-pool; None for all else."""
    if node.target != torch.ops.aten.max_pool2d.default or not isinstance(node.args[0], fx.Node):
        return None
    _, kernel, *rest = node.args
    stride, padding, dilation, ceil_mode = (*rest, *([], 0, 1, False)[len(rest) :])
    return MaxPool(both(kernel), both(stride or kernel), both(padding), both(dilation), bool(ceil_mode))


def both(value: Any) -> list[int]:
    """One number, or a list of one or two, for both directions."""
    given = list(value) if isinstance(value, (list, tuple)) else [value]
    return given * 2 if len(given) == 1 else given
