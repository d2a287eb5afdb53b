"""What the oscillation record of a running training shows to be wrong, said once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rebnn_mm.files.oscillation import COLUMNS, Header

SATURATED = 0.1  # share of a layer's latent weights
STILL = 3  # records in a row without a flip
LATE = 0.75  # share of the training after which signs may rest
_FEWEST = 9  # weights of a channel whose equal signs are no chance: a 3x3 kernel
_PLACES = {name: place for place, name in enumerate(COLUMNS)}
_PAGE = "docs/oscillation.md, 'From symptom to figure to remedy'"


class Trouble:
    """Reads record after record; each kind of trouble is named when it is first seen.

    Args:
        header: Of the record.
        clipped: For each layer, whether a latent weight beyond 1 gets no gradient.
    """

    def __init__(self, header: Header, clipped: Sequence[bool]) -> None:
        self.header = header
        self.clipped = np.array(clipped)
        size = np.array(header.weights) // np.array(header.channels)
        self.patterned = size >= _FEWEST
        self._still = 0
        self._said: set[str] = set()

    def read(self, values: np.ndarray, progress: float) -> list[str]:
        """Sentences for the user.

        Args:
            values: A record, (layers, columns).
            progress: Share of the training that is done.
        """
        found = {
            "saturated": self._saturated(values[:, _PLACES["saturated_share"]]),
            "one sign": self._one_sign(values[:, _PLACES["dead_channel_share"]]),
            "still": self._without_flips(values, progress),
        }
        new = {kind: text for kind, text in found.items() if text and kind not in self._said}
        self._said |= set(new)
        return [f"OscillationHook: {text}; see {_PAGE}" for text in new.values()]

    def _saturated(self, shares: np.ndarray) -> str:
        shares = np.where(self.clipped, shares, 0.0)
        if not (shares > SATURATED).any():
            return ""
        worst = int(shares.argmax())
        return (
            f"in {(shares > SATURATED).sum()} of {len(shares)} 1-bit layers more than a tenth of the latent weights "
            f"are beyond 1, where they get no gradient (most in {self.header.layers[worst]}, {shares[worst]:.0%})"
        )

    def _one_sign(self, shares: np.ndarray) -> str:
        rows = zip(self.header.layers, shares, self.patterned, strict=True)
        dead = [name for name, share, patterned in rows if patterned and share == 1]
        if not dead:
            return ""
        return (
            f"every output channel of {dead[0]} has weights of one sign only, or all beyond 1, and carries nothing"
            + (f"; so have {len(dead) - 1} other layers" if dead[1:] else "")
        )

    def _without_flips(self, values: np.ndarray, progress: float) -> str:
        flips = values[:, [_PLACES["flip_share"], _PLACES["update_flip_share"]]]
        self._still = 0 if flips.any() else self._still + 1
        if self._still < STILL or progress >= LATE:
            return ""
        return (
            f"no sign of the network has flipped in the last {STILL * self.header.interval} updates, after "
            f"{progress:.0%} of the training"
        )
