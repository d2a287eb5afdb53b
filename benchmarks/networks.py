"""Networks of torchvision made 1-bit by rule and packed from their graph, beside torch's float ones: one thread.

python benchmarks/networks.py [NAME ...] [--size 224] [--rounds 7]

Batch 1, weights random, CPU time; the packed network in both modes. The first row is the one that the others are
divided by.
"""

import argparse
import copy
import logging
import tempfile
from pathlib import Path

import torch
import torchvision

from rebnn_mm.convert import binarize
from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.workflows.timing import candidate, compare, format_timings, machine


def main() -> None:
    """Export, time in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["resnet18", "resnet50", "mobilenet_v2"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    logging.disable(logging.INFO)  # what the rule reports of each layer
    print(machine())
    x = torch.randn(1, 3, args.size, args.size)
    for name in args.names:
        torch.manual_seed(0)
        real = getattr(torchvision.models, name)().eval()
        binary = copy.deepcopy(real)
        report = binarize(binary.train())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.rebnn"
            written = export_model(binary.eval(), path, check=Check([x]))
            packed = {f"packed, exact={exact}": load_model(path, exact=exact) for exact in (True, False)}
        candidates = {k: candidate(lambda m=m: m(x), 1, "cpu") for k, m in {**packed, "torch, float": real}.items()}
        print(f"\n{name}, {args.size}x{args.size}: {len(report.replaced)} layers 1-bit, {written.size / 1e6:.2f} MB")
        print(format_timings(compare(candidates, args.rounds)))


if __name__ == "__main__":
    main()
