import io
import re
import time

import pytest
import torch

from rebnn_mm.progress import showing_steps
from rebnn_mm.workflows.timing import candidate, compare, format_timings, machine, milliseconds

pytestmark = pytest.mark.usefixtures("threads")


def test_candidates_take_turns_and_ratios_are_paired():
    calls = []

    def fake(name, milliseconds):
        def timed(count):
            calls.append((name, count))
            return milliseconds

        return timed

    timings = compare({"a": fake("a", 8.0), "b": fake("b", 80.0)}, rounds=3)
    # one call, two to learn how many fit into a turn of 20 ms; then turns, the short one's after a call to warm up
    assert calls == [("a", 1), ("a", 2), ("b", 1), ("b", 2)] + [("a", 1), ("a", 2), ("b", 1)] * 3
    assert [(t.name, t.mid, t.ratio, t.ratio_high) for t in timings] == [("a", 8, 1, 1), ("b", 80, 10, 10)]
    assert re.search(r"b +80\.000 .* 10\.00", format_timings(timings))


def test_a_candidate_is_called_and_timed():
    calls = []
    timed = candidate(lambda: (calls.append(torch.get_num_threads()), time.sleep(0.002)), threads=2)
    assert timed(3) >= 2 and calls == [2, 2, 2]


def test_long_comparisons_say_which_round_they_are_in():
    out = io.StringIO()
    with showing_steps("benchmark", out):
        compare({"a": candidate(lambda: None)}, rounds=21)
    lines = out.getvalue().splitlines()
    assert len(lines) == 11 and lines[1].startswith("benchmark: round 3 of 21 (")


def test_a_call_is_timed_by_each_clock():
    assert milliseconds(lambda: time.sleep(0.002)) >= 2
    assert milliseconds(lambda: time.sleep(0.05), "cpu") < 50 and milliseconds(print, "thread") >= 0


def test_bad_use_is_refused():
    for options in (dict(candidates={}), dict(candidates={"a": candidate(print)}, rounds=2)):
        with pytest.raises(ValueError, match="at least 1 and 3"):
            compare(**options)
    for options in (dict(clock="x"), dict(threads=0)):
        with pytest.raises(ValueError, match="at least 1 thread"):
            candidate(print, **options)


def test_the_machine_is_named():
    text = machine()
    assert "kernels" in text and torch.__version__ in text
