"""Draw a small VOC-format data set: python tools/make_demo_data.py --out data/demo."""

import argparse

from rebnn_mm.integrations.demo_data import CLASSES, make_demo_data


def main() -> None:
    """Parse, draw, say what is there."""
    parser = argparse.ArgumentParser(description="Draw a small VOC-format data set of shapes")
    parser.add_argument("--out", default="data/demo", help="folder to write into")
    parser.add_argument("--train", type=int, default=200, help="images of the split trainval")
    parser.add_argument("--test", type=int, default=50, help="images of the split test")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same pictures")
    args = parser.parse_args()
    try:
        root = make_demo_data(args.out, args.train, args.test, seed=args.seed)
    except (FileExistsError, ValueError, OSError) as error:
        raise SystemExit(str(error)) from None
    print(f"{args.train} + {args.test} images of {', '.join(CLASSES)} in {root}")


if __name__ == "__main__":
    main()
