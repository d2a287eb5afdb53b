"""Which sizes of its inputs a network is captured for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rebnn_mm.adaptive_padding import pads_by_size

# A network with one of these computes with the size of its input (position tables, windows, masks): its graph is for
# the size it was exported with. All others are exported for any size.
_ATTENTION = ("softmax", "scaled_dot_product", "roll")
ONE_SIZE = "its graph would be for images of one size"


def usual_sizes(x: Tensor, any_size: bool) -> set[int]:
    """Dimensions of ``x``, besides the first, that may change."""
    if x.dim() == 2 and not x.is_floating_point():
        return {1}
    return {4: {2, 3}, 3: {1}}.get(x.dim(), set()) if any_size else set()


class _Names(TorchDispatchMode):
    """Notes the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


def needs_one_size(module: nn.Module, inputs: Sequence[Tensor]) -> str | None:
    """What of ``module`` computes with the size of its input, so that its graph is for that size; None if nothing does.

    A forward that fails is left to the export to explain.
    """
    if pads_by_size(module):  # torch.export would need minutes for the sizes behind a few of these
        return "padding by size"
    with _Names() as names, torch.no_grad():
        try:
            module(*(x.clone() for x in inputs))  # it may write into them
        except Exception:  # whatever a foreign forward raises
            return None
    return "attention" if any(word in name for name in names.seen for word in _ATTENTION) else None
