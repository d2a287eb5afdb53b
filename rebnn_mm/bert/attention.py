"""transformers' self-attention on bits: :class:`rebnn_mm.layers.attention.Attend` behind the interface of BERT's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rebnn_mm.layers.attention import Attend


class BinarySelfAttention(nn.Module):
    """Self-attention with 1-bit queries, keys, values and weights; takes the place of transformers' own.

    Its three linear layers are those it is given, under the same names, so that checkpoints fit.

    Args:
        query, key, value: (..., C) -> (..., heads * d).
        heads: Attention heads.
        dropout: Applied to the weights, in training.
        scores: ``'binary'`` or ``'elastic'``, see :class:`rebnn_mm.layers.attention.Attend`.
    """

    def __init__(
        self,
        query: nn.Module,
        key: nn.Module,
        value: nn.Module,
        heads: int,
        dropout: float = 0.0,
        scores: str = "binary",
    ) -> None:
        super().__init__()
        self.query, self.key, self.value = query, key, value
        self.attend = Attend(heads, dropout, scores)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """(N, L, C) -> context (N, L, heads * d) and weights (N, heads, L, L), 0 or one other value.

        Args:
            hidden_states: Real-valued.
            attention_mask: Added to the scores, (N, 1, 1, L): 0 for a token, a large negative number for padding.
            _, __: What else transformers hands over; nothing of it applies to an encoder.
        """
        projected = (layer(hidden_states) for layer in (self.query, self.key, self.value))
        return self.attend(*projected, attention_mask)
