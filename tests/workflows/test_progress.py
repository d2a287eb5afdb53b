import io

from rebnn_mm.workflows.progress import Progress


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
