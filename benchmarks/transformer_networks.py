"""Transformers made 1-bit by rule and packed from their graph, beside torch's float ones: one thread.

python benchmarks/transformer_networks.py [NAME ...] [--rounds 11] [--profile]

Tiny sizes; ``vit`` and ``swin`` are torchvision's. Batch 1 at 224x224, weights random, CPU time; the packed network in
both modes, and the real-valued network that it was made of. The first row is the one that the others are divided by.
Before it is timed, the packed network is compared with the trained one, bit for bit. The allocator keeps freed memory,
for all contestants.
"""

from __future__ import annotations

import argparse
import copy
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from steps import profile
from torch import nn

from rebnn_mm.convert import binarize
from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.kept_memory import keep_freed_memory
from rebnn_mm.workflows.timing import candidate, compare, format_timings, machine


def _torchvision(make: str, *args: Any) -> nn.Module:
    import torchvision

    return getattr(torchvision.models, make)(*args)


def _mmpretrain(backbone: dict[str, Any], head: dict[str, Any], neck: dict[str, Any] | None = None) -> nn.Module:
    import mmpretrain.models  # noqa: F401
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS

    DefaultScope.get_instance("transformers", scope_name="mmpretrain")
    return MODELS.build(dict(type="ImageClassifier", backbone=backbone, neck=neck, head=dict(head, num_classes=1000)))


NETWORKS = {
    "vit": lambda: _torchvision("VisionTransformer", 224, 16, 12, 3, 192, 768),
    "swin": lambda: _torchvision("swin_t"),
    "mmpretrain_deit": lambda: _mmpretrain(
        dict(type="VisionTransformer", arch="deit-tiny", img_size=224, patch_size=16),
        dict(type="VisionTransformerClsHead", in_channels=192),
    ),
    "mmpretrain_swin": lambda: _mmpretrain(
        dict(type="SwinTransformer", arch="tiny", img_size=224),
        dict(type="LinearClsHead", in_channels=768),
        dict(type="GlobalAveragePooling"),
    ),
}


def main() -> None:
    """Export, time in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*NETWORKS], help=", ".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--profile", action="store_true", help="also the time of each kind of step, alone")
    args = parser.parse_args()
    logging.disable(logging.INFO)  # what the rule reports of each layer
    warnings.simplefilter("ignore")  # what the libraries say of each other
    torch.set_num_threads(1)
    keep_freed_memory()
    print(machine())
    x = torch.randn(1, 3, 224, 224)
    for name in args.names:
        torch.manual_seed(0)
        real = NETWORKS[name]().eval()
        binary = copy.deepcopy(real)
        report = binarize(binary.train())
        with torch.no_grad():
            binary(torch.randn(2, 3, 224, 224))  # norms in front of signs have seen something
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.rebnn"
            written = export_model(binary.eval(), path, check=Check([x], exact=True))
            packed = {f"packed, exact={exact}": load_model(path, exact=exact) for exact in (True, False)}
        candidates = {k: candidate(lambda m=m: m(x), 1, "cpu") for k, m in {**packed, "torch, float": real}.items()}
        print(f"\n{name}: {len(report.replaced)} layers 1-bit, {written.size / 1e6:.2f} MB")
        print(format_timings(compare(candidates, args.rounds)))
        if args.profile:
            print(profile(packed["packed, exact=True"], x))


if __name__ == "__main__":
    main()
