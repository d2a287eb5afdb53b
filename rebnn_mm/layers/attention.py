"""Attention with 1-bit projections, its scores real-valued or on bits; BERT's, DETR's and ViT's are all this one.

On bits it is BiBERT's Bi-Attention (Qin et al., ICLR 2022, section 3.2): ``scores = sign(Q) sign(K)^T / sqrt(d)``,
``weights = 1[scores >= 0]``, ``context = weights sign(V)``. No softmax, as the step keeps its order and 0 splits the
scores in halves, which is where a bit holds most information. Both products are of bits, and their results integers.

Elastic it is BiT's (Liu et al., NeurIPS 2022): the softmax stays; queries, keys and values are ``+-alpha``, each with a
scale and threshold of its own, and weights are 0 or alpha, see :mod:`rebnn_mm.estimators.elastic`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from rebnn_mm.errors import UserError
from rebnn_mm.estimators import ElasticSTE, clipped_sign, clipped_step
from rebnn_mm.layers.interface import binary_layers

SCORES = ("real", "binary", "elastic")


class Attend(nn.Module):
    """What attention does between its projections.

    Args:
        heads: Attention heads.
        dropout: Applied to the weights, in training.
        scores: ``'real'``: softmax of the scaled products. ``'binary'``: Bi-Attention. ``'elastic'``: BiT's.

    Raises:
        ValueError: Other ``scores``.
    """

    def __init__(self, heads: int, dropout: float = 0.0, scores: str = "real") -> None:
        super().__init__()
        if scores not in SCORES:
            raise UserError(f"attention: scores={scores!r} is not one of {SCORES}")
        self.heads, self.scores = heads, scores
        self.dropout = nn.Dropout(dropout)
        if scores == "elastic":
            names = ("query", "key", "value", "weights")
            self.elastic = nn.ModuleDict({name: ElasticSTE(unsigned=name == "weights") for name in names})

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(..., L, C), (..., S, C), (..., S, D) -> context (..., L, D) and weights (..., heads, L, S), before dropout.

        Args:
            query: Projected, real-valued.
            key: Likewise.
            value: Likewise.
            mask: Added to the scores, of a shape that (..., heads, L, S) takes: 0, or a large negative number or -inf
                where nothing is to be seen.
        """
        query, key, value = (x.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for x in (query, key, value))
        if self.scores == "binary":
            query, key, value = clipped_sign(query), clipped_sign(key), clipped_sign(value)
        elif self.scores == "elastic":
            query, key, value = (self._elastic(*pair) for pair in dict(query=query, key=key, value=value).items())
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        scores = scores if mask is None else scores + mask
        weights = clipped_step(scores) if self.scores == "binary" else scores.softmax(dim=-1)
        if self.scores == "elastic":  # a threshold may fall to 0 or below, and what is not to be seen has a weight of 0
            weights = self._elastic("weights", weights) * (weights > 0)
        context = self.dropout(weights) @ value
        return context.transpose(-3, -2).flatten(-2), weights

    def _elastic(self, name: str, x: Tensor) -> Tensor:
        """One of two values for each element of ``x``."""
        activation: Any = self.elastic[name]
        return activation.values(activation(x))

    def extra_repr(self) -> str:
        """Heads and kind of scores."""
        return f"heads={self.heads}, scores={self.scores!r}"


@MODELS.register_module()
class BinaryMultiheadAttention(nn.Module):
    """``nn.MultiheadAttention`` with 1-bit projections ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``.

    Its forward takes and returns what torch's does. A state dict of torch's loads: ``in_proj_weight`` and
    ``in_proj_bias`` are split into the three projections'.

    Args:
        embed_dim, num_heads, dropout, bias, kdim, vdim, batch_first, device, dtype: As for torch's.
        scores: See :class:`Attend`.
        linear: Type and options of the projections.
        out_bias: ``bias`` of ``out_proj``, if it is another one.
    """

    # nn.TransformerEncoderLayer asks for these before it takes its fused path, which does without the projections
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        scores: str = "real",
        linear: dict[str, Any] | None = None,
        device: Any = None,
        dtype: Any = None,
        out_bias: bool | None = None,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise UserError(f"BinaryMultiheadAttention: embed_dim={embed_dim} is no multiple of num_heads={num_heads}")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim, self.vdim, self.batch_first = kdim or embed_dim, vdim or embed_dim, batch_first
        cfg = {**dict(type="ReBNNLinear", input_norm=True), **(linear or {})}
        cfg.update(out_features=embed_dim, bias=bias, device=device, dtype=dtype)
        self.q_proj = MODELS.build(dict(cfg, in_features=embed_dim))
        self.k_proj = MODELS.build(dict(cfg, in_features=self.kdim))
        self.v_proj = MODELS.build(dict(cfg, in_features=self.vdim))
        self.out_proj = MODELS.build(dict(cfg, in_features=embed_dim, bias=bias if out_bias is None else out_bias))
        self.attend = Attend(num_heads, dropout, scores)

    @property
    def dropout(self) -> float:
        """Rate of dropout on the weights."""
        return self.attend.dropout.p

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As for torch's: (L, N, C), or (N, L, C) with ``batch_first``, or (L, C) -> the same, and weights or None.

        Raises:
            ValueError: ``is_causal`` without ``attn_mask``; it is a hint, as for torch's.
        """
        if is_causal and attn_mask is None:
            raise UserError("BinaryMultiheadAttention: is_causal=True is only a hint; give the mask as attn_mask too")
        batched = query.dim() == 3
        if not batched:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        projected = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        mask = self._mask(attn_mask, key_padding_mask, projected[0].dtype)
        context, weights = self.attend(*projected, mask)
        y = self.out_proj(context)
        if not need_weights:
            found = None
        else:
            found = weights.mean(dim=1) if average_attn_weights else weights
        if not batched:
            return y[0], None if found is None else found[0]
        return y if self.batch_first else y.transpose(0, 1), found

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """(L, S) or (N * heads, L, S), and (N, S), each bool (True: not to be seen) or added -> (N, heads, L, S)."""
        mask = None
        if attn_mask is not None:
            mask = _additive(attn_mask, dtype)
            mask = mask if mask.dim() == 2 else mask.unflatten(0, (-1, self.num_heads))
        if padding is not None:
            hidden = _additive(padding, dtype)[:, None, None, :]
            mask = hidden if mask is None else mask + hidden
        return mask

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take torch's names: the packed projection in three, and those of keys and values of other sizes."""
        names = ("q_proj", "k_proj", "v_proj")
        for kind in ("weight", "bias"):
            packed = state_dict.pop(f"{prefix}in_proj_{kind}", None)
            if packed is not None:
                parts = zip(names, packed.chunk(3), strict=True)
                state_dict.update({f"{prefix}{name}.{kind}": part.clone() for name, part in parts})
        for name in names:
            own = state_dict.pop(f"{prefix}{name}_weight", None)
            if own is not None:
                state_dict[f"{prefix}{name}.weight"] = own
        super()._load_from_state_dict(state_dict, prefix, *args)


def binary_scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, **others: Any
) -> Tensor:
    """Bi-Attention behind the signature of torch's ``scaled_dot_product_attention``, (..., L, d), (..., S, d).

    Raises:
        ValueError: Options that Bi-Attention does not have.
    """
    if any(others.values()):
        raise UserError(f"attention with binary scores takes no {', '.join(others)}")
    scores = clipped_sign(query) @ clipped_sign(key).transpose(-1, -2) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        scores = scores + _additive(~attn_mask if attn_mask.dtype == torch.bool else attn_mask, scores.dtype)
    weights = nn.functional.dropout(clipped_step(scores), dropout_p)
    return weights @ clipped_sign(value)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)


def binary_twin(attention: nn.MultiheadAttention, scores: str, linear: dict[str, Any]) -> BinaryMultiheadAttention:
    """The 1-bit form of a trained attention, with copies of its weights, in its mode."""
    old, weight = attention, attention.out_proj.weight
    twin = BinaryMultiheadAttention(
        old.embed_dim,
        old.num_heads,
        old.dropout,
        old.in_proj_bias is not None,
        old.kdim,
        old.vdim,
        old.batch_first,
        scores,
        linear,
        weight.device,
        weight.dtype,
        out_bias=old.out_proj.bias is not None,  # MMPretrain's TNT has none but this one
    )
    missing, unexpected = twin.load_state_dict(old.state_dict(), strict=False)
    assert not unexpected and not [name for name in missing if name.endswith((".weight", ".bias"))]
    for projection in binary_layers(twin).values():
        if getattr(projection, "alpha", None) is not None:
            projection.reset_alpha()  # the weights were not trained with it: alpha follows what may yet initialise them
    learns = weight.requires_grad
    return twin.to(weight.device, weight.dtype).train(old.training).requires_grad_(learns)
