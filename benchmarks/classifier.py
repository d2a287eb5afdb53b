"""What ``tools/benchmark.py`` times, and larq-compute-engine's BiRealNet-18 in the same turns, one thread, CPU time.

python benchmarks/classifier.py MODEL.rebnn CONFIG CHECKPOINT --lce PYTHON [--onnxruntime] [--rounds 21]
"""

import argparse

from mmengine.logging import MMLogger
from peer import Peer

from rebnn_mm.integrations.build import read_config
from rebnn_mm.workflows.benchmark import benchmark_model


def main() -> None:
    """Parse, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .rebnn file of a classifier")
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--lce", metavar="PYTHON", required=True, help="interpreter with larq-compute-engine")
    parser.add_argument("--onnxruntime", action="store_true", help="float32 and int8 (needs onnx, too)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="more than one: the packed model at each")
    parser.add_argument("--size", type=int, default=224, help="height and width of the image")
    parser.add_argument("--rounds", type=int, default=21)
    args = parser.parse_args()
    MMLogger.get_current_instance().setLevel("WARNING")
    trained = (read_config(args.config), args.checkpoint)
    with Peer(args.lce, "lce_resnet18", 0, args.size) as peer:
        others = {f"{peer.name} BiRealNet-18": peer}
        size, how = (args.size, args.size), dict(threads=args.threads, rounds=args.rounds, others=others)
        print(benchmark_model(args.model, size, 1, trained, args.onnxruntime, **how))


if __name__ == "__main__":
    main()
