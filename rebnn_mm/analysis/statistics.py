"""Mean, spread and paired differences of a few repeated measurements (seeds), with Student's t."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rebnn_mm.checks import check_number, check_whole
from rebnn_mm.errors import UserError


@dataclass(frozen=True)
class Summary:
    """A sample of ``n`` measurements, in their own unit.

    Attributes:
        n: How many there are.
        mean: Their mean.
        std: Sample standard deviation (divided by ``n - 1``); None for one measurement, which shows no spread.
        low: Lower end of the 95 % confidence interval of the mean, after Student; None for one measurement.
        high: Its upper end.
    """

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None

    @property
    def error(self) -> float | None:
        """Standard error of the mean, ``std / sqrt(n)``."""
        return None if self.std is None else self.std / math.sqrt(self.n)


def summarize(values: Sequence[float]) -> Summary:
    """Mean, spread and 95 % interval of ``values``.

    The interval assumes that the values are independent draws from about a normal distribution: seeds of one config
    are, epochs of one run are not.

    Raises:
        ValueError: No value, or one that is not finite.
    """
    if not values:
        raise UserError("no values to summarize: at least one measurement is needed")
    if not all(map(math.isfinite, values)):
        raise UserError(f"values {list(values)} are not all finite: leave the failed run out, or repeat it")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Summary(n, mean, None, None, None)
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1))
    reach = student_quantile(n - 1) * std / math.sqrt(n)
    return Summary(n, mean, std, mean - reach, mean + reach)


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Summary | None:
    """Summary of ``values[seed] - baseline[seed]`` over the seeds that both have; None without a common seed.

    A seed fixes the order of the data and the initial weights of equal layers. Where that makes two runs alike, their
    difference spreads less than either; where it does not, nothing is lost but degrees of freedom.
    """
    common = sorted(values.keys() & baseline.keys())
    return summarize([values[seed] - baseline[seed] for seed in common]) if common else None


def student_quantile(df: int, confidence: float = 0.95) -> float:
    """``t`` with ``P(|T| <= t) = confidence`` for Student's distribution with ``df`` degrees of freedom.

    From the closed form for whole ``df`` (Abramowitz and Stegun, 26.7.3 and 26.7.4), by bisection: it spares the
    dependency on scipy for one number.

    Raises:
        ValueError: ``df`` is no whole number from 1, or ``confidence`` is not between 0 and 1.
    """
    check_whole("df", df)
    check_number("confidence", confidence, above=0, below=1)
    low, high = 0.0, math.pi / 2
    for _ in range(80):  # halvings until the angle is exact to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if _probability_within(middle, df) < confidence else (low, middle)
    return math.sqrt(df) * math.tan(low)


def _probability_within(angle: float, df: int) -> float:
    """``P(|T| <= t)`` with ``angle = atan(t / sqrt(df))``."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(2 if odd else 1, df, 2):  # odd: cos + 2/3 cos^3 + ...; even: 1 + 1/2 cos^2 + ...
        total += term
        term *= cosine**2 * k / (k + 1)
    return (angle + sine * total) * 2 / math.pi if odd else sine * total
