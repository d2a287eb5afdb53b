"""Write images of a config's data set as the model gets them, with the ground truth drawn in.

python tools/browse_dataset.py CONFIG --out DIR [--split train|val|test] [--number N]
"""

import argparse


def main(argv: list[str] | None = None) -> None:
    """Parse, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file of mmdet or mmpretrain")
    parser.add_argument("--out", required=True, help="folder for the pictures")
    parser.add_argument("--split", choices=("train", "val", "test"), default="train")
    parser.add_argument("--number", type=int, help="write the first N; default: all")
    parser.add_argument("--cfg-options", nargs="+", action="extend", metavar="KEY=VALUE", help="override the config")
    args = parser.parse_args(argv)

    # After parsing, so that --help and a wrong option answer at once.
    from rebnn_mm.integrations.build import read_config
    from rebnn_mm.integrations.config import read_words
    from rebnn_mm.workflows.endings import one_sentence
    from rebnn_mm.workflows.inspection import browse

    with one_sentence("browse_dataset"):
        cfg = read_config(args.config, read_words(args.cfg_options))
        files = browse(cfg, args.out, args.split, args.number)
    print(f"{len(files)} pictures written to {args.out}")


if __name__ == "__main__":
    main()
