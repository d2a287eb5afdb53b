"""How gamma is computed, and when it sets in."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rebnn_mm import functional as F
from rebnn_mm.balance.onset import Onset
from rebnn_mm.checks import check_number, check_whole
from rebnn_mm.errors import UserError

_MAGNITUDES = ("weight", "gradient")


@dataclass(frozen=True)
class BalanceRule:
    """The options of the balance, checked.

    Attributes:
        magnitude: ``'weight'`` for ``max_j |w_ij|``, ``'gradient'`` for the paper's
            ``max_j |dL_S/dw_hat_ij|``.
        flip_weighted: Multiply by the flip share; False is the paper's ablation.
        flip_interval: Updates between the two sign snapshots that the flip share compares.
        gamma: A constant instead of the rule; 0 switches the reconstruction term off.
        gamma_min: Lower bound of the computed gamma, or None.
        gamma_max: Upper bound of the computed gamma, or None.
        begin: Updates, or share of the training in [0, 1) when a float, during which gamma stays 0.
        ramp: Length of the linear rise of gamma from 0 to its value behind ``begin``, in the same units; with a
            ``flip_interval`` it rises in steps, as gamma is set at the intervals' ends only.

    Raises:
        ValueError: An option out of range.
    """

    magnitude: str = "weight"
    flip_weighted: bool = True
    flip_interval: int = 1
    gamma: float | None = None
    gamma_min: float | None = None
    gamma_max: float | None = None
    begin: int | float = 0
    ramp: int | float = 0

    def __post_init__(self) -> None:
        if self.magnitude not in _MAGNITUDES:
            raise UserError(f"Balance: magnitude={self.magnitude!r} is not one of {_MAGNITUDES}")
        check_whole("Balance: flip_interval", self.flip_interval, hint="; it counts updates")
        for name in ("gamma", "gamma_min", "gamma_max"):
            check_number(f"Balance: {name}", getattr(self, name), least=0, or_none=True)
        low, high = self.gamma_min, self.gamma_max
        if low is not None and high is not None and low > high:
            raise UserError(f"Balance: gamma_min={low} is above gamma_max={high}")
        if self.gamma is not None and (low is not None or high is not None):
            raise UserError("Balance: a constant gamma takes no bounds; drop gamma_min and gamma_max")
        Onset(self.begin, self.ramp)  # checks both

    @property
    def onset(self) -> Onset:
        """When gamma sets in, and how fast."""
        return Onset(self.begin, self.ramp)

    @property
    def needs_length(self) -> bool:
        """Whether the onset is a share of the training, whose length must then be known."""
        return isinstance(self.begin or self.ramp, float)

    def magnitude_before(self, weight: Tensor, task_grad: Tensor, alpha: Tensor) -> Tensor:
        """The magnitude of each output channel just before an update, (C_out,)."""
        if self.magnitude == "weight":
            return F.weight_magnitude(weight)
        return F.gradient_magnitude(weight, task_grad, alpha)

    def next_gamma(self, before: Tensor, after: Tensor, magnitude: Tensor) -> Tensor:
        """Gamma from the signs of two snapshots, bool and shaped as the weight: (C_out,), without the onset."""
        flips = F.flip_share(before, after) if self.flip_weighted else None
        return F.balance_parameter(flips, magnitude, self.gamma_min, self.gamma_max)

    def has_set_in(self, updates: int, share: float) -> bool:
        """Whether gamma has been above 0 after so many updates, at ``share`` of the training."""
        if self.gamma is None and updates < self.flip_interval:
            return False
        return self.onset.factor(updates, share) > 0

    def check_length(self, who: str, updates: int, length: str) -> str | None:
        """What to warn of in a training of ``updates`` updates, or None.

        Args:
            who: Name for the message.
            updates: Updates of the whole training.
            length: The same in words, as ``'8 iterations, which are 4 updates'``.

        Raises:
            ValueError: Gamma would stay 0 for the whole training, and why.
        """
        if self.gamma == 0 or (self.gamma is not None and self.onset.factor(0, 0.0) > 0):
            return None  # switched off, or a constant that is set at the start
        end = f"but the training ends after {length}: gamma would stay 0"
        interval, begin = self.flip_interval, self.begin
        if interval > updates:
            raise UserError(
                f"{who}: flip_interval={interval} updates, {end}. Choose a shorter one, or say so with gamma=0"
            )
        last = updates // interval * interval
        reached = self.onset.factor(last, last / updates)
        if reached == 0 or (isinstance(begin, int) and begin >= updates):
            unit = "of the training" if isinstance(begin, float) else "updates"
            raise UserError(
                f"{who}: begin={begin} {unit}, {end} (it is set every flip_interval={interval} updates). "
                "Begin earlier, or say so with gamma=0"
            )
        if reached == 1:
            return None
        return (
            f"{who}: begin={begin}, ramp={self.ramp} reach behind the training's end, after {updates} updates: "
            f"gamma rises to {reached:.0%} of its value only"
        )
