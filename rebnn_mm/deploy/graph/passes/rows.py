"""Embeddings whose tables are in 8 bits: only the rows that are looked up become floats."""

from __future__ import annotations

import torch

from rebnn_mm.deploy.graph.functions import embedding_rows
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.operation.int8 import dequantize

_EMBEDDING = torch.ops.aten.embedding.default


def keep_tables(traced: Traced) -> None:
    """``embedding(dequantize(values, scale), indices)`` -> ``embedding_rows(values, scale, indices)``: the same bits.

    BERT-base's table is 23 MB so, 94 MB in float32. One that something else reads, too, is left: an output layer with
    the embedding's weight needs all of its floats.
    """
    for node in list(traced.graph.nodes):
        if node.target is not dequantize or any(
            user.target != _EMBEDDING or user.args[0] is not node or node in user.args[1:] for user in node.users
        ):
            continue
        for user in list(node.users):
            with traced.graph.inserting_before(user):
                new = traced.graph.call_function(embedding_rows, (*node.args, user.args[1]))
            new.meta = dict(user.meta)
            user.replace_all_uses_with(new)
            traced.graph.erase_node(user)
    traced.tidy()
