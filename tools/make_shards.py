"""Write images in class folders as WebDataset shards, which large data sets are kept in.

python tools/make_shards.py IMAGENET/train SHARDS/train [--shard-mb 256]
"""

import argparse


def main(argv: list[str] | None = None) -> None:
    """Parse, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="one split: a folder of class folders")
    parser.add_argument("out", help="folder to write; it must not exist")
    parser.add_argument("--shard-mb", type=float, default=256, help="size of a shard (default: 256)")
    parser.add_argument("--seed", type=int, default=0, help="of the images' order (default: 0)")
    args = parser.parse_args(argv)

    # After parsing, so that --help and a wrong option answer at once.
    from rebnn_mm.workflows.endings import one_sentence
    from rebnn_mm.workflows.shards import make_shards

    with one_sentence("make-shards"):
        shards = make_shards(args.source, args.out, int(args.shard_mb * 1e6), args.seed)
    print(f"{len(shards)} shards in {args.out}")


if __name__ == "__main__":
    main()
