"""When the balance parameter sets in, and how fast."""

from __future__ import annotations

from dataclasses import dataclass

from rebnn_mm.errors import UserError


@dataclass(frozen=True)
class Onset:
    """A factor that is 0 for a while, then rises linearly to 1.

    Attributes:
        begin: Where it starts to rise: a whole number of updates, or a float as a share of the training in [0, 1).
        ramp: How long it rises, in the same units; 0 steps to 1 at once.

    Raises:
        ValueError: A negative number, a share of 1 or more, or two units.
    """

    begin: int | float = 0
    ramp: int | float = 0

    def __post_init__(self) -> None:
        for name, value in (("begin", self.begin), ("ramp", self.ramp)):
            share = isinstance(value, float)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0 or (share and not value < 1):
                raise UserError(
                    f"Balance: {name}={value!r} must be a whole number of updates >= 0, or a share of the training "
                    "in [0, 1) as a float"
                )
        if self.begin and self.ramp and isinstance(self.begin, float) != isinstance(self.ramp, float):
            raise UserError(
                f"Balance: begin={self.begin!r} and ramp={self.ramp!r} have different units; give both in updates "
                "(2000) or both as a share of the training (0.2)"
            )

    def factor(self, updates: int, share: float) -> float:
        """The factor in [0, 1] when ``updates`` updates, and ``share`` of all iterations, are done."""
        in_shares = isinstance(self.begin or self.ramp, float)
        risen = (share if in_shares else updates) - self.begin
        if risen < 0:
            return 0.0
        return 1.0 if self.ramp == 0 else min(1.0, risen / self.ramp)
