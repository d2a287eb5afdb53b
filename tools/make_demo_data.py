"""Draw a small VOC-format data set of shapes.

python tools/make_demo_data.py [--out data/demo] [--train 200] [--test 50] [--seed 0]
"""

import argparse


def main(argv: list[str] | None = None) -> None:
    """Parse, draw, say what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="data/demo", help="folder to write into")
    parser.add_argument("--train", type=int, default=200, help="images of the split trainval")
    parser.add_argument("--test", type=int, default=50, help="images of the split test")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same pictures")
    args = parser.parse_args(argv)

    # After parsing, so that --help and a wrong option answer at once.
    from rebnn_mm.workflows.demo_data import CLASSES, make_demo_data
    from rebnn_mm.workflows.endings import one_sentence

    with one_sentence("make_demo_data"):
        root = make_demo_data(args.out, args.train, args.test, seed=args.seed)
    print(f"{args.train} + {args.test} images of {', '.join(CLASSES)} in {root}")


if __name__ == "__main__":
    main()
