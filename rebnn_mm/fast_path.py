"""Be called: torch's fused kernels read the weights of layers and leave their forwards, where the signs are, out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm.errors import UserTypeError


def keep_called(layer: nn.Module) -> None:
    """Let ``nn.TransformerEncoderLayer`` call ``layer``, also in evaluation.

    Where no gradient is wanted it hands ``linear1.weight`` and ``linear2.weight`` to one kernel, unless a module in it
    has a hook: this gives the layer one. All that it does is to refuse the ragged batches of that path, which
    ``nn.TransformerEncoder`` makes of a padding mask.
    """
    layer.register_forward_pre_hook(refuse_nested)


def refuse_nested(module: nn.Module, args: Any) -> None:
    """Raise UserTypeError for a nested tensor."""
    if args and isinstance(args[0], Tensor) and args[0].is_nested:
        raise UserTypeError(
            f"{type(module).__name__} is given a nested tensor and takes dense ones: build nn.TransformerEncoder with "
            "enable_nested_tensor=False"
        )


@contextmanager
def no_fast_path() -> Iterator[None]:
    """Within the block, torch's attentions compute as in training, also those that are real-valued.

    Without a gradient ``nn.MultiheadAttention`` takes a fused kernel that rounds in another order. ``torch.export``
    captures the other way, so what a graph gives is compared with that.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
