"""Write a packed network as an ExecuTorch program.

python tools/export_executorch.py MODEL.rebnn OUT.pte [--size H W] [--length N] [--no-verify]
"""

import argparse


def main(argv: list[str] | None = None) -> None:
    """Parse, export, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .rebnn file that tools/export.py wrote")
    parser.add_argument("out", help="the .pte file to write")
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="of the images; default: the file's")
    parser.add_argument("--length", type=int, help="of sequences of tokens")
    parser.add_argument("--allow-slow", action="store_true", help="leave real-valued products to portable kernels")
    parser.add_argument(
        "--verify", action=argparse.BooleanOptionalAction, default=True, help="compare with the packed network"
    )
    args = parser.parse_args(argv)

    # After parsing, so that --help and a wrong option answer at once.
    from rebnn_mm.deploy.executorch.export import export_executorch
    from rebnn_mm.errors import UserError

    # not launch.one_sentence, which needs mmengine: this tool runs with torch and executorch alone
    try:
        report = export_executorch(
            args.model,
            args.out,
            size=None if args.size is None else tuple(args.size),
            verify=args.verify,
            allow_slow=args.allow_slow,
            length=args.length,
        )
    except UserError as error:
        raise SystemExit(f"export_executorch: {error}") from None
    print(report)
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
