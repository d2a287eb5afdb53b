"""Draw a detector's boxes or a classifier's label into images.

python tools/infer.py IMAGE|FOLDER CONFIG CHECKPOINT --out DIR [--score-thr 0.3] [--device cuda:0]
python tools/infer.py IMAGE|FOLDER MODEL.rebnn       --out DIR
"""

import argparse


def main(argv: list[str] | None = None) -> None:
    """Parse, build, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="an image, or a folder (with its subfolders)")
    parser.add_argument("config", help="config file of mmdet or mmpretrain, or a packed file alone")
    parser.add_argument("checkpoint", nargs="?", help="weights trained with it, or its packed file")
    parser.add_argument("--out", required=True, help="folder for the drawn images")
    parser.add_argument("--score-thr", type=float, default=0.3, help="boxes below it are not drawn (default: 0.3)")
    parser.add_argument("--device", help="default: the first GPU, else cpu")
    parser.add_argument("--cfg-options", nargs="+", action="extend", metavar="KEY=VALUE", help="override the config")
    args = parser.parse_args(argv)

    # After parsing, so that --help and a wrong option answer at once.
    from rebnn_mm.integrations.build import read_config
    from rebnn_mm.integrations.checkpoint import is_packed_file
    from rebnn_mm.integrations.config import read_words
    from rebnn_mm.integrations.images.pipeline import image_suffixes
    from rebnn_mm.kept_memory import keep_freed_memory
    from rebnn_mm.workflows.endings import one_sentence
    from rebnn_mm.workflows.inference import Inferencer, find_images, infer, packed_config

    keep_freed_memory()
    with one_sentence("infer"):
        if args.checkpoint is None and is_packed_file(args.config):
            if args.cfg_options:
                parser.error("--cfg-options change a config: give CONFIG and MODEL.rebnn")
            cfg, weights = packed_config(args.config), args.config
        elif args.checkpoint is None:
            parser.error("give CONFIG and CHECKPOINT, or a packed file MODEL.rebnn")
        else:
            cfg, weights = read_config(args.config, read_words(args.cfg_options)), args.checkpoint
        pairs = find_images(args.source, args.out, image_suffixes(cfg))
        inferencer = Inferencer(cfg, weights, args.device, args.score_thr)
        report = infer(inferencer, pairs)
    print(f"{len(report.written)} of {len(pairs)} images written to {args.out}")
    if report.failed:
        lines = "\n".join(f"  {path}: {reason}" for path, reason in report.failed)
        raise SystemExit(f"infer: {len(report.failed)} of {len(pairs)} images were skipped:\n{lines}")


if __name__ == "__main__":
    main()
