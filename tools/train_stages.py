"""Train stage after stage, each from the weights of the one before; --resume goes on where it stopped.

python tools/train_stages.py STAGE1_CONFIG STAGE2_CONFIG [--resume] [--work-dir DIR] [--cfg-options KEY=VALUE ...]
"""

import argparse

from rebnn_mm.workflows import launch
from rebnn_mm.workflows.endings import one_sentence


def main(argv: list[str] | None = None) -> None:
    """Parse, train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", help="config files in the order of training")
    parser.add_argument("--resume", action="store_true", help="skip finished stages, go on with the stopped one")
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision (needs an accelerator)")
    launch.add_run_arguments(parser)
    args = parser.parse_args(argv)

    with one_sentence("train_stages"):
        from rebnn_mm.workflows.stages import read_stages, train_stages

        stages = read_stages(args)
        if args.amp:
            for cfg in stages:
                launch.use_amp(cfg)
        train_stages(stages, args.resume)


if __name__ == "__main__":
    main()
