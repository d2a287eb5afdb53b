"""Figures and one page about the oscillation of one or several trainings that had an OscillationHook.

python tools/analyze.py WORK_DIR [WORK_DIR ...] [--out DIR] [--format png|svg]
"""

import argparse
from pathlib import Path


def main(argv: list[str] | None = None) -> None:
    """Parse, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dirs", nargs="+", metavar="WORK_DIR", help="of tools/train.py; runs are overlaid")
    parser.add_argument("--out", help="folder for the figures; default: WORK_DIR/analysis of the first")
    parser.add_argument("--format", choices=("png", "svg"), default="png")
    args = parser.parse_args(argv)

    # After parsing, so that --help and a wrong option answer at once.
    from rebnn_mm.analysis.report import format_summary, write_report
    from rebnn_mm.analysis.runs import read_runs, summarize
    from rebnn_mm.workflows.endings import one_sentence

    with one_sentence("analyze"):
        runs = read_runs(args.work_dirs)
        files = write_report(runs, args.out or Path(args.work_dirs[0]) / "analysis", args.format)
    print(format_summary([summarize(run) for run in runs]))
    print(f"\n{len(files) - 1} figures; open {files[0]}")


if __name__ == "__main__":
    main()
