"""Convert a released checkpoint of ReActNet (ResNet-18/34, ReActNet-A) or ReBNN to this package's names; both stages.

python tools/convert_reactnet.py SOURCE.pth.tar TARGET.pth

The result tests with configs/resnet{18,34}_rebnn_imagenet.py or reactnet_a_react_imagenet.py, or is their load_from.
"""

import argparse


def main(argv: list[str] | None = None) -> None:
    """Parse, convert, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="checkpoint as github.com/liuzechun/ReActNet or SteveTsui/ReBNN saves it")
    parser.add_argument("target", help="file to write")
    args = parser.parse_args(argv)

    # After parsing, so that --help and a wrong option answer at once.
    from rebnn_mm.workflows.endings import one_sentence
    from rebnn_mm.workflows.reactnet import convert_file

    with one_sentence("convert_reactnet"):
        state = convert_file(args.source, args.target)
    print(f"wrote {args.target}: {len(state)} tensors")


if __name__ == "__main__":
    main()
