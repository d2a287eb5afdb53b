"""Attention on bits: BiBERT's Bi-Attention (Qin et al., ICLR 2022, section 3.2).

``scores = sign(Q) sign(K)^T / sqrt(d)``, ``weights = 1[scores >= 0]``, ``context = weights sign(V)``: no softmax, as
the step keeps its order and 0 splits the scores in halves, which is where a bit holds most information.
Both products are of bits, and their results integers.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from rebnn_mm.estimators import clipped_sign, clipped_step


class BinarySelfAttention(nn.Module):
    """Self-attention with 1-bit queries, keys, values and weights; takes the place of transformers' own.

    Its three linear layers are those it is given, under the same names, so that checkpoints fit.

    Args:
        query, key, value: (..., C) -> (..., heads * d).
        heads: Attention heads.
        dropout: Applied to the weights, in training.
    """

    def __init__(self, query: nn.Module, key: nn.Module, value: nn.Module, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.query, self.key, self.value = query, key, value
        self.heads = heads
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """(N, L, C) -> context (N, L, heads * d) and weights (N, heads, L, L) in {0, 1}.

        Args:
            hidden_states: Real-valued.
            attention_mask: Added to the scores, (N, 1, 1, L): 0 for a token, a large negative number for padding.
            _, __: What else transformers hands over; nothing of it applies to an encoder.
        """
        query, key, value = (
            clipped_sign(layer(hidden_states)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        weights = clipped_step(scores if attention_mask is None else scores + attention_mask)
        context = self.dropout(weights) @ value
        return context.transpose(1, 2).flatten(2), weights

    def extra_repr(self) -> str:
        """Heads."""
        return f"heads={self.heads}"
