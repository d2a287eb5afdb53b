"""Time a packed model beside the trained one, its real-valued twin and onnxruntime, in one run.

python tools/benchmark.py MODEL.rebnn [--compare CONFIG CHECKPOINT] [--onnxruntime] [--threads N] [--shape H W]
"""

import argparse

from mmengine.config import DictAction


def main(argv: list[str] | None = None) -> None:
    """Parse, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .rebnn file that tools/export.py wrote")
    parser.add_argument("--compare", nargs=2, metavar=("CONFIG", "CHECKPOINT"), help="what it was exported from")
    parser.add_argument("--onnxruntime", action="store_true", help="classifiers: float32 and int8 (needs onnx, too)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shape", nargs=2, type=int, metavar=("H", "W"), default=(224, 224), help="of the images")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine, one thread")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="override the config: key=value")
    args = parser.parse_args(argv)

    # After parsing, so that --help and a wrong option answer at once.
    import torch

    from rebnn_mm.deploy import load_model
    from rebnn_mm.deploy.timing import compare, format_timings, machine
    from rebnn_mm.integrations.benchmark import noise, onnxruntime_models, predict, trained_models
    from rebnn_mm.integrations.build import read_config
    from rebnn_mm.integrations.launch import one_sentence

    torch.set_num_threads(args.threads)
    images = noise(tuple(args.shape), args.batch)
    with one_sentence("benchmark"):
        calls = {
            "packed": predict(load_model(args.model), images),
            "packed, exact=False": predict(load_model(args.model, exact=False), images),
        }
        if args.compare:
            calls |= trained_models(read_config(args.compare[0], args.cfg_options), args.compare[1], images)
        if args.onnxruntime:
            calls |= onnxruntime_models(args.model, images, args.threads)
    print(machine())
    print(
        f"input       {args.batch} x 3 x {args.shape[0]} x {args.shape[1]}, {args.rounds} rounds, {args.clock} clock\n"
    )
    print(format_timings(compare(calls, args.rounds, args.clock)))


if __name__ == "__main__":
    main()
