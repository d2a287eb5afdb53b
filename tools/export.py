"""Pack a trained detector or classifier into one small file.

python tools/export.py CONFIG CHECKPOINT OUT.rebnn [--fp16] [--no-verify | --exact] [--metric NAME=VALUE ...]
"""

import argparse

from mmengine.config import DictAction


def main(argv: list[str] | None = None) -> None:
    """Parse, export, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file of a detector, a classifier or a BERT")
    parser.add_argument("checkpoint", help="weights trained with it")
    parser.add_argument("out", help="the file to write, *.rebnn")
    parser.add_argument("--fp16", action="store_true", help="store real-valued weights in 16 bits; states the error")
    parser.add_argument(
        "--verify", action=argparse.BooleanOptionalAction, default=True, help="compare with the trained model"
    )
    parser.add_argument("--exact", action="store_true", help="refuse any difference, also one of rounding")
    parser.add_argument("--metric", nargs="+", action=DictAction, help="measured results to store: NAME=VALUE")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="override the config: key=value")
    args = parser.parse_args(argv)

    # After parsing, so that --help and a wrong option answer at once.
    from rebnn_mm.integrations.build import read_config
    from rebnn_mm.workflows.export import export_config
    from rebnn_mm.workflows.launch import one_sentence

    with one_sentence("export"):
        cfg = read_config(args.config, args.cfg_options)
        report = export_config(cfg, args.checkpoint, args.out, args.fp16, args.verify, args.metric, args.exact)
    print(report)
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
