"""Train a detector, a classifier or a BERT from its config.

python tools/train.py CONFIG [--work-dir DIR] [--resume [PATH]] [--amp] [--auto-scale-lr] [--cfg-options KEY=VALUE ...]
"""

import argparse

from rebnn_mm.workflows import launch
from rebnn_mm.workflows.endings import one_sentence


def main(argv: list[str] | None = None) -> None:
    """Parse, train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file of a detector, a classifier or a BERT")
    parser.add_argument("--resume", nargs="?", const="auto", help="go on from PATH, or from the work dir's newest")
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision (needs an accelerator)")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale lr by batch size / base batch size")
    launch.add_run_arguments(parser)
    args = parser.parse_args(argv)

    with one_sentence("train"):
        cfg = launch.read_run_config(args)
        if args.amp:
            launch.use_amp(cfg)
        if args.auto_scale_lr:
            launch.use_auto_scale_lr(cfg)
        if args.resume:
            launch.use_resume(cfg, args.resume)
        launch.train(cfg)


if __name__ == "__main__":
    main()
