import io

import pytest

from rebnn_mm.progress import Progress, showing_steps, step


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(out, total):
    with Progress("packing", total, out) as progress:
        for number in range(total):
            progress.advance(f"file {number}")
    return out.getvalue()


def test_a_log_gets_ten_lines():
    lines = run(io.StringIO(), 250).splitlines()
    assert len(lines) == 10 and lines[0].startswith("packing 25/250, 0:00 left file 24")
    assert lines[-1].startswith("packing 250/250, 0:00 file 249")
    assert len(run(io.StringIO(), 3).splitlines()) == 3


def test_a_terminal_gets_one_line_that_is_written_over():
    said = run(Terminal(), 250)
    assert said.count("\n") == 1 and said.endswith("\n") and "\rpacking 250/250" in said
    assert said.count("\r") < 20  # drawn by time, not for each step


def test_a_shorter_line_leaves_nothing_of_a_longer_one():
    out = Terminal()
    progress = Progress("x", 2, out)
    progress.advance("a long remark")
    progress._drawn = float("-inf")
    progress.advance()
    first, second = out.getvalue().split("\r")[1:]
    assert len(second) == len(first)


def test_steps_are_a_line_each_in_a_log():
    out = io.StringIO()
    step("nobody asked")
    with showing_steps("export", out):
        step("capturing")
        step("writing")
    step("nobody asks any more")
    assert out.getvalue() == "export: capturing (0:00)\nexport: writing (0:00)\n"


def test_steps_leave_nothing_on_a_terminal():
    out = Terminal()
    with pytest.raises(ValueError, match="a fault"), showing_steps("export", out):
        step("a long sentence about what is done")
        step("short")
        raise ValueError("a fault")
    drawn = out.getvalue().split("\r")
    assert "\n" not in out.getvalue() and drawn[-1] == "" and drawn[-2].strip() == ""
    assert len(drawn[-2]) >= len(drawn[1]) == len(drawn[2])
    step("heard by nobody")
    assert out.getvalue().count("heard") == 0
