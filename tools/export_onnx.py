"""Write a packed network as ONNX: python tools/export_onnx.py MODEL.rebnn OUT.onnx [--form FORM] [--part NAME]."""

import argparse


def main(argv: list[str] | None = None) -> None:
    """Parse, export, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a .rebnn file that tools/export.py wrote")
    parser.add_argument("out", help="the .onnx file to write")
    forms = dict(choices=("float", "packed", "qonnx"), default="float")
    parser.add_argument("--form", **forms, help="packed: 1-bit custom operators; qonnx: BipolarQuant of QONNX")
    parser.add_argument("--part", help="of a detector: backbone, neck")
    args = parser.parse_args(argv)

    # After parsing, so that --help and a wrong option answer at once.
    from rebnn_mm.deploy.targets.onnx import export_onnx
    from rebnn_mm.workflows.endings import one_sentence

    with one_sentence("export_onnx"):
        export_onnx(args.model, args.out, args.form, args.part)
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
