"""Time a packed model beside the trained one, its real-valued twin and onnxruntime, in one run.

python tools/benchmark.py MODEL.rebnn [--compare CONFIG CHECKPOINT] [--onnxruntime] [--threads N ...] [--shape H W]
python tools/benchmark.py --suite [--onnxruntime] [--lce PYTHON]      # everything in docs/performance.md
"""

import argparse
import sys

from mmengine.config import DictAction


def main(argv: list[str] | None = None) -> None:
    """Parse, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a .rebnn file that tools/export.py wrote")
    parser.add_argument("--suite", action="store_true", help="layers, networks, a detector; no MODEL")
    parser.add_argument("--compare", nargs=2, metavar=("CONFIG", "CHECKPOINT"), help="what it was exported from")
    parser.add_argument("--onnxruntime", action="store_true", help="classifiers: float32 and int8 (needs onnx, too)")
    parser.add_argument("--lce", metavar="PYTHON", help="interpreter with larq-compute-engine: its BiRealNet-18")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="more than one: the packed model at each")
    parser.add_argument("--shape", nargs=2, type=int, metavar=("H", "W"), default=(224, 224), help="of the images")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine, one thread")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="override the config: key=value")
    args = parser.parse_args(argv)
    if bool(args.model) == args.suite:
        parser.error("name a MODEL.rebnn file, or --suite without one")

    # After parsing, so that --help and a wrong option answer at once.
    from mmengine.logging import MMLogger

    from rebnn_mm.integrations.launch import one_sentence

    MMLogger.get_current_instance().setLevel("WARNING")  # what becomes 1-bit is told when a model is trained
    with one_sentence("benchmark"):
        if args.suite:
            from rebnn_mm.integrations.suite import run_suite

            sys.exit(run_suite(args.rounds, args.onnxruntime, args.lce))
        from rebnn_mm.integrations.benchmark import benchmark_model
        from rebnn_mm.integrations.build import read_config

        trained = (read_config(args.compare[0], args.cfg_options), args.compare[1]) if args.compare else None
        how = (args.threads, args.rounds, args.clock)
        print(benchmark_model(args.model, tuple(args.shape), args.batch, trained, args.onnxruntime, args.lce, *how))


if __name__ == "__main__":
    main()
