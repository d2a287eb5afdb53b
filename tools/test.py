"""Evaluate a checkpoint with its config's metric.

python tools/test.py CONFIG CHECKPOINT [--out FILE.pkl] [--show-dir DIR] [--inexact] [--cfg-options KEY=VALUE ...]
"""

import argparse

from rebnn_mm.workflows import launch
from rebnn_mm.workflows.endings import one_sentence


def main(argv: list[str] | None = None) -> None:
    """Parse, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file of a detector, a classifier or a BERT")
    parser.add_argument("checkpoint", help="weights trained with it, its packed .rebnn file, or its program (.pte)")
    parser.add_argument("--out", help="write all predictions to this .pkl file")
    parser.add_argument("--show-dir", help="write pictures with predictions here")
    parser.add_argument("--inexact", action="store_true", help="of a .rebnn file, test what exact=False computes")
    launch.add_run_arguments(parser)
    args = parser.parse_args(argv)

    with one_sentence("test"):
        cfg = launch.read_run_config(args)
        if args.show_dir:
            launch.use_show_dir(cfg, args.show_dir)
        launch.test(cfg, args.checkpoint, args.out, not args.inexact)


if __name__ == "__main__":
    main()
