"""Networks made 1-bit by rule and packed from their graph, beside torch's float ones: one thread, CPU time, batch 1.

python benchmarks/networks.py [NAME ...] [--size 224 [224]] [--rounds 7] [--profile]

NAME is a network of torchvision (``resnet18``), or a config of MMPretrain or MMDetection, of which backbone and neck
are taken (``mmpretrain:convmixer/convmixer-768-32_10xb64_in1k``, ``mmdet:faster_rcnn/faster-rcnn_r50_fpn_1x_coco``).
Weights are random; the packed network runs in both modes. The first row is the one that the others are divided by.
"""

import argparse
import copy
import logging
import tempfile
from pathlib import Path

import torch
from steps import profile
from torch import nn

from rebnn_mm.convert import binarize
from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.kept_memory import keep_freed_memory
from rebnn_mm.workflows.timing import candidate, compare, format_timings, machine


def main() -> None:
    """Export, time in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large"])
    parser.add_argument("--size", type=int, nargs="+", default=[224], help="height and width, or one for both")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--profile", action="store_true", help="also the time of each kind of step, alone")
    parser.add_argument(
        "--frozen", action="store_true", help="keep frozen what a detector's config freezes: real-valued"
    )
    args = parser.parse_args()
    logging.disable(logging.INFO)  # what the rule reports of each layer
    torch.set_num_threads(1)
    keep_freed_memory()
    print(machine())
    height, width = args.size if len(args.size) == 2 else args.size * 2
    x = torch.randn(1, 3, height, width)
    for name in args.names:
        torch.manual_seed(0)
        real = network(name, args.frozen).eval()
        binary = copy.deepcopy(real)
        report = binarize(binary.train())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.rebnn"
            written = export_model(binary.eval(), path, check=Check([torch.randn(1, 3, 224, 224)]))
            packed = {f"packed, exact={exact}": load_model(path, exact=exact) for exact in (True, False)}
        candidates = {k: candidate(lambda m=m: m(x), 1, "cpu") for k, m in {**packed, "torch, float": real}.items()}
        print(f"\n{name}, {height}x{width}: {len(report.replaced)} layers 1-bit, {written.size / 1e6:.2f} MB")
        print(format_timings(compare(candidates, args.rounds)), flush=True)
        if args.profile:
            print(profile(packed["packed, exact=True"], x), flush=True)


def network(name: str, frozen: bool) -> nn.Module:
    """The float network with random weights."""
    library, _, config = name.rpartition(":")
    if not library:
        import torchvision

        return getattr(torchvision.models, name)()
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope
    from sweep_configs import configs_root

    init_default_scope(library)
    cfg = Config.fromfile(configs_root(library) / f"{config}.py").model
    backbone = {**cfg.backbone, "init_cfg": None}
    if not frozen and "norm_eval" in backbone:  # else the rule leaves out what does not train
        backbone |= dict(frozen_stages=-1, norm_eval=False)
    parts = [MODELS.build(part) for part in (backbone, cfg.get("neck")) if part]
    return nn.Sequential(*parts)


if __name__ == "__main__":
    main()
