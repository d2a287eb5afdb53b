"""A training step, forward and backward, of 1-bit networks beside their real-valued twins, and what it keeps in memory.

python benchmarks/training.py [NAME ...] [--rounds 9] [--profile]

NAME is one of: resnet18 (8 images of 224x224), resnet18_small (64 of 32x32, a quarter of the width), bert_tiny (32
sentences of 64 tokens) and faster_rcnn (the small one of the BCCD configs, 2 images of 320x416). One thread, CPU time;
contestants take turns in every round. Memory is what autograd keeps for the backward besides parameters and inputs,
each block once. Weights are random, so are inputs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.kept_memory import keep_freed_memory
from rebnn_mm.layers import composed
from rebnn_mm.workflows.timing import candidate, compare, format_timings, machine

ROOT = Path(__file__).resolve().parents[1]
TWIN, REBNN, SHORT, REACT, COMPOSED = "real-valued twin", "ReBNN", "ReBNN, keep='code'", "ReActNet", "ReBNN, composed"
CONVS = {
    TWIN: dict(type="Conv2d"),
    REBNN: dict(type="ReBNNConv2d"),
    SHORT: dict(type="ReBNNConv2d", keep="code"),
    REACT: dict(type="ReActConv2d"),
    COMPOSED: dict(type="ReBNNConv2d"),
}

Loss = Callable[[], Tensor]
"""Runs the forward of a network; the first call may set up."""


def resnet(batch: int, size: int, **options: Any) -> dict[str, tuple[nn.Module, Loss]]:
    """ReBNNResNet-18 and its twin."""
    images = torch.randn(batch, 3, size, size)
    found = {}
    for name, conv in CONVS.items():
        torch.manual_seed(0)
        model = ReBNNResNet(18, conv_cfg=conv, **options)
        found[name] = model, lambda model=model: model(images)[-1].square().mean()
    return found


def bert_tiny() -> dict[str, tuple[nn.Module, Loss]]:
    """BERT-tiny of the SST-2 configs, level 1-1-1, and its twin."""
    import rebnn_mm.integrations.bert  # noqa: F401  # registers it

    ids = torch.randint(5, 1000, (32, 64))
    inputs = dict(input_ids=ids, token_type_ids=torch.zeros_like(ids), attention_mask=torch.ones_like(ids))
    samples = dict(index=torch.arange(32), labels=torch.randint(0, 2, (32,)))
    cfg = Config.fromfile(ROOT / "configs" / "bert_rebnn_tiny_glue_sst2.py").model
    found = {}
    for name, conv in CONVS.items():
        torch.manual_seed(0)
        linear = {**conv, "type": conv["type"].replace("Conv2d", "Linear")}
        model = MODELS.build({**cfg, "binary_linear": linear})
        found[name] = model, lambda model=model: model(inputs, samples, mode="loss")["loss_cls"]
    return found


def faster_rcnn() -> dict[str, tuple[nn.Module, Loss]]:
    """The small Faster R-CNN and its twin."""
    from mmdet.testing import demo_mm_inputs

    import rebnn_mm.integrations.detection  # noqa: F401  # registers its parts

    init_default_scope("mmdet")
    found = {}
    for name, conv in CONVS.items():
        torch.manual_seed(0)
        kind = "real" if name == TWIN else "rebnn"
        cfg = Config.fromfile(ROOT / "configs" / f"faster_rcnn_{kind}_r18_bccd.py").model
        if name != TWIN:
            cfg.backbone.conv_cfg = conv
            cfg.neck.conv_cfg = {**conv, "shortcut": True}
            cfg.rpn_head.binarize.layer = {**conv, "shortcut": True}
        model = MODELS.build({**cfg, "backbone": {**cfg.backbone, "init_cfg": None}})
        packed = demo_mm_inputs(2, [(3, 320, 416)] * 2, num_items=[12, 12], num_classes=3)
        data = model.data_preprocessor(packed, True)

        def loss(model: nn.Module = model, data: Any = data) -> Tensor:
            torch.manual_seed(0)  # the samplers draw boxes
            parts = model(**data, mode="loss").values()
            return sum(sum(part) if isinstance(part, list) else part for part in parts if not _is_metric(part))

        found[name] = model, loss
    return found


def _is_metric(part: Any) -> bool:
    return isinstance(part, Tensor) and not part.requires_grad


NETWORKS = dict(
    resnet18=lambda: resnet(8, 224),
    resnet18_small=lambda: resnet(64, 32, base_channels=16, stem="cifar"),
    bert_tiny=bert_tiny,
    faster_rcnn=faster_rcnn,
)


def step(name: str, model: nn.Module, loss: Loss) -> None:
    """Forward and backward."""
    with torch.inference_mode(False), torch.enable_grad():
        model.zero_grad(set_to_none=True)
        if name == COMPOSED:
            with composed():
                value = loss()
        else:
            value = loss()
        value.backward()


def kept_bytes(name: str, model: nn.Module, loss: Loss) -> int:
    """What is kept between forward and backward, each block of memory once."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    blocks: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in known:
            blocks[address] = tensor  # held, so that no other block gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if name == COMPOSED:
            with composed():
                value = loss()
        else:
            value = loss()
    del value
    return sum(tensor.untyped_storage().nbytes() for tensor in blocks.values())


def profiled(name: str, model: nn.Module, loss: Loss) -> str:
    """The operations that take most of a step, by their own CPU time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step(name, model, loss)
    return profile.key_averages().table("self_cpu_time_total", row_limit=12, max_name_column_width=48)


def main() -> None:
    """Build, measure in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS), metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--profile", action="store_true", help="print where a step's time goes")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NETWORKS):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(NETWORKS)}")
    torch.set_num_threads(1)
    keep_freed_memory()
    print(machine())
    for network in args.names:
        contestants = NETWORKS[network]()
        for name, (model, loss) in contestants.items():
            model.train()
            step(name, model, loss)  # a learned scale begins here
        bytes_ = {name: kept_bytes(name, *pair) for name, pair in contestants.items()}
        print(f"\n{network}: forward and backward, {args.rounds} rounds, CPU time")
        calls = {name: candidate(lambda n=name, p=pair: step(n, *p), 1, "cpu") for name, pair in contestants.items()}
        print(format_timings(compare(calls, args.rounds)))
        for name, number in bytes_.items():
            print(f"{name:20} keeps {number / 1e6:8.1f} MB, {number / bytes_[TWIN]:.2f} of the twin's")
        if args.profile:
            for name, pair in contestants.items():
                print(f"\n{name}\n{profiled(name, *pair)}", flush=True)


if __name__ == "__main__":
    main()
