"""Pack a trained network into one small file, or write it for another engine.

python tools/export.py CONFIG CHECKPOINT OUT [--to rebnn|onnx|openvino|executorch] [--fp16 | --int8]
                       [--no-verify | --exact]
python tools/export.py MODEL.rebnn OUT [--to ...] [options of the engine]

Without --to the ending of OUT decides: .rebnn, .onnx, .xml (OpenVINO), .pte (ExecuTorch).
"""

import argparse


def main(argv: list[str] | None = None) -> None:
    """Parse, export, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="+", help="a config and the weights trained with it, or a .rebnn file")
    parser.add_argument("out", help="the file to write")
    parser.add_argument("--to", metavar="ENGINE", help="rebnn, onnx, openvino or executorch; default: by OUT's ending")
    parser.add_argument(
        "--verify", action=argparse.BooleanOptionalAction, default=True, help="compare with the trained model"
    )
    packing = parser.add_argument_group("from a config and a checkpoint")
    packing.add_argument("--fp16", action="store_true", help="store real-valued weights in 16 bits; states the error")
    packing.add_argument("--int8", action="store_true", help="store them in 8 bits, with a scale for each channel")
    packing.add_argument("--exact", action="store_true", help="refuse any difference, also one of rounding")
    packing.add_argument("--metric", nargs="+", action="extend", metavar="NAME=VALUE", help="measured results to store")
    packing.add_argument("--cfg-options", nargs="+", action="extend", metavar="KEY=VALUE", help="override the config")
    engines = parser.add_argument_group("options of the engines")
    engines.add_argument("--part", help="a detector's backbone, neck, or boxes (it whole); executorch: boxes")
    engines.add_argument("--form", help="onnx: float (default), packed (1-bit custom operators) or qonnx")
    engines.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="of the images")
    engines.add_argument(
        "--max-size",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="executorch, --part boxes: all sizes up to this one (default: the pipeline's)",
    )
    engines.add_argument("--length", type=int, help="openvino, executorch: of sequences of tokens")
    engines.add_argument(
        "--int8-linear", action="store_true", default=None, help="executorch: real-valued linear layers in 8 bits"
    )
    engines.add_argument(
        "--int8-rest",
        metavar="FOLDER",
        help="executorch: in 8 bits what no 1-bit layer follows, scaled by the images of this folder",
    )
    engines.add_argument("--allow-slow", action="store_true", default=None, help="executorch: also on slow kernels")
    args = parser.parse_args(argv)

    # After parsing, so that --help and a wrong option answer at once.
    from rebnn_mm.integrations.config import read_words
    from rebnn_mm.progress import showing_steps
    from rebnn_mm.workflows.endings import one_sentence
    from rebnn_mm.workflows.engines import ExportOptions, export_to

    with one_sentence("export"):
        engine = dict(part=args.part, form=args.form, size=args.size, length=args.length, allow_slow=args.allow_slow)
        engine |= dict(max_size=args.max_size, int8_linear=args.int8_linear, int8_rest=args.int8_rest)
        options, metrics = read_words(args.cfg_options) or None, read_words(args.metric, "--metric") or None
        packed = ExportOptions(options, args.fp16, args.verify, metrics, args.exact, args.int8)
        with showing_steps("export"):
            reports = export_to(args.source, args.out, args.to, packed, engine)
        for report in reports:
            print(report)
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
