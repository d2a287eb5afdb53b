"""Time a packed model beside the trained one, its real-valued twin and onnxruntime, in one run.

python tools/benchmark.py MODEL.rebnn [--compare CONFIG CHECKPOINT] [--onnxruntime] [--threads N ...] [--shape H W]
"""

import argparse


def main(argv: list[str] | None = None) -> None:
    """Parse, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a .rebnn file that tools/export.py wrote")
    parser.add_argument("--suite", action="store_true", help=argparse.SUPPRESS)  # moved
    parser.add_argument("--compare", nargs=2, metavar=("CONFIG", "CHECKPOINT"), help="what it was exported from")
    parser.add_argument("--onnxruntime", action="store_true", help="classifiers: float32 and int8 (needs onnx, too)")
    parser.add_argument("--lce", help=argparse.SUPPRESS)  # moved
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="more than one: the packed model at each")
    parser.add_argument("--shape", nargs=2, type=int, metavar=("H", "W"), default=(224, 224), help="of the images")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine, one thread")
    parser.add_argument("--cfg-options", nargs="+", action="extend", metavar="KEY=VALUE", help="override the config")
    args = parser.parse_args(argv)
    if args.suite or args.lce:
        parser.error("--suite and --lce have moved: in a checkout, python benchmarks/suite.py [--lce PYTHON]")
    if not args.model:
        parser.error("name a MODEL.rebnn file")

    # After parsing, so that --help and a wrong option answer at once.
    from mmengine.logging import MMLogger

    from rebnn_mm.progress import showing_steps
    from rebnn_mm.workflows.endings import one_sentence

    MMLogger.get_current_instance().setLevel("WARNING")  # what becomes 1-bit is told when a model is trained
    with one_sentence("benchmark"):
        from rebnn_mm.integrations.build import read_config
        from rebnn_mm.integrations.config import read_words
        from rebnn_mm.workflows.benchmark import benchmark_model

        options = read_words(args.cfg_options)
        trained = (read_config(args.compare[0], options), args.compare[1]) if args.compare else None
        how = (args.threads, args.rounds, args.clock)
        with showing_steps("benchmark"):
            table = benchmark_model(args.model, tuple(args.shape), args.batch, trained, args.onnxruntime, *how)
        print(table)


if __name__ == "__main__":
    main()
