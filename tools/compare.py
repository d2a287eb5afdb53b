"""Train a grid of configs and seeds, and write a table with means, spreads and differences, and figures.

python tools/compare.py SPEC [--out DIR] [--jobs N] [--report-only]

What is finished is skipped: after Ctrl-C or a failed run the same command goes on. docs/compare.md says how to write
a SPEC; examples are in configs/compare/.
"""

import argparse
from pathlib import Path


def main(argv: list[str] | None = None) -> None:
    """Parse, train, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", help="what to train: a file as in configs/compare/")
    parser.add_argument("--out", help="folder of runs and results; default: work_dirs/compare/<spec name>")
    parser.add_argument("--jobs", type=int, help="runs at a time; default: one a GPU, without GPUs one a core")
    parser.add_argument("--report-only", action="store_true", help="train nothing, report what is finished")
    args = parser.parse_args(argv)

    # After parsing, so that --help and a wrong option answer at once.
    from rebnn_mm.compare import read_spec, run_all, write_report
    from rebnn_mm.workflows.endings import one_sentence

    failures = []
    with one_sentence("compare"):
        spec = read_spec(args.spec)
        out = Path(args.out or spec.folder)
        if not args.report_only:
            failures = run_all(spec, out, Path(__file__).with_name("train.py"), args.jobs)
        for sentence in failures:
            print(f"compare: {sentence}")
        print(write_report(spec, out))
    print(f"written to {out}: results.md, results.json and figures")
    if failures:
        raise SystemExit(f"compare: {len(failures)} of {len(spec.runs)} runs failed; the same command repeats them")


if __name__ == "__main__":
    main()
