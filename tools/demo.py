"""Show a detector or a classifier on a page of your browser: drop a picture, see boxes or labels.

python tools/demo.py MODEL.rebnn       [--port 8000]
python tools/demo.py CONFIG CHECKPOINT [--port 8000]
"""

import argparse


def main(argv: list[str] | None = None) -> None:
    """Parse, load, serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="+", help="a packed file, or a config and a checkpoint")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000; 0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    args = parser.parse_args(argv)

    # After parsing, so that --help and a wrong option answer at once.
    from rebnn_mm.kept_memory import keep_freed_memory
    from rebnn_mm.workflows.endings import one_sentence
    from rebnn_mm.workflows.page.serve import make_server, serve

    keep_freed_memory()
    with one_sentence("demo"):
        serve(make_server(args.model, args.host, args.port))


if __name__ == "__main__":
    main()
