"""Signs of one layer at the last snapshot, and which flipped in the last three: 3 bits a weight."""

from __future__ import annotations

import torch
from torch import Tensor

from rebnn_mm.files.bits import count, to_bits

WINDOW = 3


class SignHistory:
    """Signs at the last snapshot, and how many snapshots ago each of them last flipped.

    With ``s_t`` the sign of a weight at snapshot ``t``, it *flips* at ``t`` when ``s_t != s_{t-1}``. It *flips back*
    at ``t`` when it flips at ``t`` and its flip before that was at ``t - 1``, ``t - 2`` or ``t - 3`` (``WINDOW``): as a
    sign has two values only, it then returns to the value it had before. This is the sequential oscillation of the
    paper's figures 1 and 4, counted.

    The age of the last flip, 1 to 3 or 0 for longer ago, is held in two bits, bit-sliced: bit plane ``low`` and bit
    plane ``high``, eight weights a byte, as the signs are.

    Args:
        signs: Bool tensor of any shape: the first snapshot.
    """

    def __init__(self, signs: Tensor) -> None:
        self.signs = to_bits(signs)
        self.low = torch.zeros_like(self.signs)
        self.high = torch.zeros_like(self.signs)

    def flips(self, signs: Tensor) -> Tensor:
        """Number of signs that differ from the last snapshot; takes no snapshot."""
        return count(self.signs ^ to_bits(signs))

    def snapshot(self, signs: Tensor) -> tuple[Tensor, Tensor]:
        """Take a snapshot; returns the number of flips and, among them, of flips back."""
        bits = to_bits(signs)
        flipped = self.signs ^ bits
        back = flipped & (self.low | self.high)
        # age + 1, 3 becoming 0, and 0 staying 0; a flip sets it to 1
        self.low, self.high = (self.high & ~self.low) | flipped, (self.high ^ self.low) & ~flipped
        self.signs = bits
        return count(flipped), count(back)

    def state(self) -> list[Tensor]:
        """The three bit planes on the CPU, for a checkpoint."""
        return [plane.cpu() for plane in (self.signs, self.low, self.high)]

    def load(self, state: list[Tensor]) -> None:
        """Take up what :meth:`state` gave.

        Raises:
            ValueError: It is of a layer with another number of weights.
        """
        if any(plane.shape != self.signs.shape for plane in state):
            raise ValueError(f"sign history of {state[0].shape} bytes, the layer's has {self.signs.shape}")
        self.signs, self.low, self.high = (plane.to(self.signs.device) for plane in state)
