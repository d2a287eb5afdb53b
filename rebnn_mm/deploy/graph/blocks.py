"""The ``with`` blocks of a network's code, as ``torch.export`` keeps them: ``no_grad()``, ``autocast(...)``."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from rebnn_mm.errors import UserError

# A block of the network's code -> the number of its settings, which stand before its body.
BLOCKS = {torch.ops.higher_order.wrap_with_set_grad_enabled: 1, torch.ops.higher_order.wrap_with_autocast: 4}


def check_blocks(module: fx.GraphModule) -> None:
    """Refuse blocks that compute in another precision; those without gradients or autocast change nothing here."""
    for node in nodes_of(module):
        if node.target is torch.ops.higher_order.wrap_with_autocast:
            device, _, enabled, _ = node.args[: BLOCKS[node.target]]
            if enabled and device == "cpu":
                raise UserError("it has a block under torch.autocast, and a graph computes in float32")


def nodes_of(module: fx.GraphModule) -> Iterator[fx.Node]:
    """All nodes, those within blocks, too."""
    for part in module.modules():
        if isinstance(part, fx.GraphModule):
            yield from part.graph.nodes
