"""torchvision's window attention (Swin, versions 1 and 2) with 1-bit projections.

torchvision hands the weights of its two linear layers to a function, so that their forwards, where the signs are, do
not run. What stands here computes the same with layers that are called, under the same names.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rebnn_mm.layers.attention import Attend

# by name: torchvision is not needed otherwise
_THEIRS = {
    f"torchvision.models.swin_transformer.{kind}" for kind in ("ShiftedWindowAttention", "ShiftedWindowAttentionV2")
}


def is_window_attention(module: nn.Module) -> bool:
    """Whether a module is one of torchvision's."""
    kind = type(module)
    return f"{kind.__module__}.{kind.__qualname__}" in _THEIRS


class BinaryWindowAttention(nn.Module):
    """Attention within shifted windows, (N, H, W, C) -> the same; a state dict of torchvision's loads.

    Args:
        theirs: The module of torchvision whose place it takes; its tables and sizes become this one's.
        qkv: (..., C) -> (..., 3 C), takes the place of ``theirs.qkv``.
        proj: (..., C) -> (..., C), likewise.
        scores: See :class:`rebnn_mm.layers.attention.Attend`.
    """

    relative_position_index: Tensor

    def __init__(self, theirs: Any, qkv: nn.Module, proj: nn.Module, scores: str = "real") -> None:
        super().__init__()
        self.window_size, self.shift_size, self.num_heads = theirs.window_size, theirs.shift_size, theirs.num_heads
        self.attention_dropout, self.dropout = theirs.attention_dropout, theirs.dropout
        for name, parameter in theirs._parameters.items():
            self.register_parameter(name, parameter)
        for name, buffer in theirs._buffers.items():
            self.register_buffer(name, buffer, persistent=name not in theirs._non_persistent_buffers_set)
        for name, part in theirs._modules.items():
            self.add_module(name, part)
        self.qkv, self.proj = qkv, proj
        self.attend = Attend(self.num_heads, self.attention_dropout, scores)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each window, after a shift of all of them."""
        height, width = x.shape[1:3]
        down, right = -height % self.window_size[0], -width % self.window_size[1]
        if down or right:
            x = functional.pad(x, (0, 0, 0, right, 0, down))
        size = x.shape[1:3]
        # a window that covers the image needs no shift
        pairs = zip(self.shift_size, self.window_size, size, strict=True)
        shift = [0 if window >= side else step for step, window, side in pairs]
        if any(shift):
            x = torch.roll(x, (-shift[0], -shift[1]), (1, 2))
        y = self._from_windows(self._attended(self._to_windows(x), size, shift), size)
        if any(shift):
            y = torch.roll(y, (shift[0], shift[1]), (1, 2))
        return y[:, :height, :width].contiguous()

    def _attended(self, x: Tensor, size: torch.Size, shift: list[int]) -> Tensor:
        """(N, windows, L, C) -> the same."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        if hasattr(self, "logit_scale"):  # version 2 compares directions, and its keys have no bias
            bias: Any = self.qkv.bias
            key = key if bias is None else key - bias.chunk(3)[1]
            factor = self.logit_scale.clamp(max=math.log(100.0)).exp().view(-1, 1)
            query, key = (
                functional.normalize(part.unflatten(-1, (self.num_heads, -1)), dim=-1) for part in (query, key)
            )
            query = (query * factor * math.sqrt(query.shape[-1])).flatten(-2)
            key = key.flatten(-2)
        # made of constants alone: a packed network has it computed once
        mask = self._position_bias()
        if any(shift):
            mask = mask + self._apart(size, shift, x)[:, None]
        context, _ = self.attend(query, key, value, mask)
        return functional.dropout(self.proj(context), self.dropout, self.training)

    def _position_bias(self) -> Tensor:
        """(1, heads, L, L)."""
        table: Any
        if hasattr(self, "cpb_mlp"):
            table = 16 * torch.sigmoid(self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads))
        else:
            table = self.relative_position_bias_table
        length = self.window_size[0] * self.window_size[1]
        return table[self.relative_position_index].view(length, length, -1).permute(2, 0, 1)[None]

    def _apart(self, size: torch.Size, shift: list[int], like: Tensor) -> Tensor:
        """(windows, L, L): -100 between places that the shift brought together, as torchvision has it."""
        rows, columns = (
            torch.arange(side, device=like.device).ge(side - window).long()
            + torch.arange(side, device=like.device).ge(side - step).long()
            for side, window, step in zip(size, self.window_size, shift, strict=True)
        )
        regions = self._to_windows((3 * rows[:, None] + columns)[None, :, :, None])[0, ..., 0]
        return (regions[:, None] != regions[:, :, None]) * like.new_tensor(-100.0)

    def _to_windows(self, x: Tensor) -> Tensor:
        """(N, H, W, C) -> (N, windows, L, C)."""
        high, wide = self.window_size
        x = x.unflatten(2, (-1, wide)).unflatten(1, (-1, high))
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def _from_windows(self, x: Tensor, size: torch.Size) -> Tensor:
        """The inverse of :meth:`_to_windows`."""
        high, wide = self.window_size
        x = x.unflatten(2, (high, wide)).unflatten(1, (size[0] // high, size[1] // wide))
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def extra_repr(self) -> str:
        """Window, shift and heads."""
        return f"window_size={self.window_size}, shift_size={self.shift_size}, heads={self.num_heads}"
