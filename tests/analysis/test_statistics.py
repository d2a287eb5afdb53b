"""Small samples, against numbers computed by hand and against scipy's Student distribution."""

import math

import pytest

from rebnn_mm.analysis.statistics import paired_difference, student_quantile, summarize


def test_summary_of_three():
    summary = summarize([1.0, 2.0, 6.0])  # deviations -2, -1, 3: 14 / 2 = 7
    assert (summary.n, summary.mean) == (3, 3.0)
    assert summary.std == pytest.approx(math.sqrt(7))
    assert summary.error == pytest.approx(math.sqrt(7 / 3))
    reach = 4.302653 * math.sqrt(7 / 3)  # Student's t of two degrees of freedom
    assert (summary.low, summary.high) == pytest.approx((3 - reach, 3 + reach), rel=1e-6)


def test_one_value_has_no_spread():
    summary = summarize([5.0])
    assert (summary.n, summary.mean) == (1, 5.0)
    assert (summary.std, summary.error, summary.low, summary.high) == (None,) * 4


@pytest.mark.parametrize(("values", "message"), [([], "at least one"), ([1.0, math.nan], "not all finite")])
def test_no_numbers(values, message):
    with pytest.raises(ValueError, match=message):
        summarize(values)


def test_differences_are_paired_by_seed():
    difference = paired_difference({0: 10.0, 1: 20.0, 2: 30.0, 7: 99.0}, {2: 28.0, 0: 9.0, 1: 17.0, 8: 0.0})
    assert (difference.n, difference.mean) == (3, 2.0)  # 1, 3, 2: the seeds 7 and 8 have no partner
    assert difference.std == pytest.approx(1.0)
    assert paired_difference({0: 1.0}, {1: 2.0}) is None


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 9, 10, 29, 30, 199])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_student_quantile_is_scipys(df, confidence):
    stats = pytest.importorskip("scipy.stats")
    assert student_quantile(df, confidence) == pytest.approx(stats.t.ppf((1 + confidence) / 2, df), rel=1e-9)


@pytest.mark.parametrize("bad", [(0,), (1.5,), (True,), (3, 1.0), (3, 0)])
def test_bad_degrees_of_freedom(bad):
    with pytest.raises(ValueError, match="df=.* must be a whole number|confidence=.* must be a finite number"):
        student_quantile(*bad)
