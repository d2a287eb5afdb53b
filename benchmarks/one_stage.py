"""Heads of one-stage detectors on one 1-bit backbone and neck, packed, beside their twins: one thread, CPU time.

python benchmarks/one_stage.py [--size 320] [--rounds 7] [--classes 3] [--heads rtmdet fcos atss retinanet] [--parts]

The detectors are those of configs/HEAD_rebnn_r18_bccd.py, which share backbone and neck. From an image array to
boxes, weights random: few boxes pass the threshold.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from rebnn_mm.integrations.build import build_model, read_config
from rebnn_mm.integrations.packed import load_packed_model
from rebnn_mm.kept_memory import keep_freed_memory
from rebnn_mm.workflows.benchmark import predict, real_twin
from rebnn_mm.workflows.export import export_config, noise
from rebnn_mm.workflows.timing import candidate, compare, format_timings, machine

CONFIGS = Path(__file__).parents[1] / "configs"
HEADS = ("rtmdet", "fcos", "atss", "retinanet")


def config(name: str, classes: int) -> Config:
    """The config of a head, for so many classes."""
    return read_config(CONFIGS / f"{name}_rebnn_r18_bccd.py", {"model.bbox_head.num_classes": classes})


def detectors(cfg: Config, size: int) -> tuple[Any, Any]:
    """The packed detector and its twin, with random weights and statistics of noise."""
    torch.manual_seed(0)
    model = build_model(cfg)
    model.init_weights()
    with torch.no_grad():
        for _ in range(2):
            model.train()(torch.randn(2, 3, size, size), mode="tensor")
    with tempfile.TemporaryDirectory() as folder:
        torch.save(dict(state_dict=model.eval().state_dict()), f"{folder}/m.pth")
        export_config(cfg, f"{folder}/m.pth", f"{folder}/m.rebnn", verify=False)
        return load_packed_model(f"{folder}/m.rebnn"), real_twin(model)


def parts(model: Any, images: torch.Tensor, calls: int = 30) -> str:
    """CPU milliseconds of each part of a packed detector, median of some calls."""
    places = {"preprocessing": model.data_preprocessor, "backbone": model.backbone, "neck": model.neck}
    places["head"] = model.bbox_head
    starts, times = {}, {name: [] for name in places}
    for name, module in places.items():
        module.register_forward_pre_hook(lambda *_, name=name: starts.update({name: time.process_time()}))
        module.register_forward_hook(
            lambda *_, name=name: times[name].append((time.process_time() - starts[name]) * 1e3) and None
        )
    call, whole = predict(model, images), []
    for _ in range(calls):
        start = time.process_time()
        call()
        whole.append((time.process_time() - start) * 1e3)
    found = {name: median(values) for name, values in times.items()}
    found["boxes and the rest"] = median(whole) - sum(found.values())
    return ", ".join(f"{name} {ms:.2f}" for name, ms in found.items())


def main() -> None:
    """Export, time in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=HEADS)
    parser.add_argument("--parts", action="store_true", help="also where the packed time goes")
    args = parser.parse_args()
    MMLogger.get_current_instance().setLevel("WARNING")
    torch.set_num_threads(1)
    keep_freed_memory()
    images = noise((args.size, args.size), 1, 3)
    candidates, packed = {}, {}
    for name in args.heads:
        packed[name], twin = detectors(config(name, args.classes), args.size)
        candidates[f"{name}, packed"] = candidate(predict(packed[name], images), 1, "cpu")
        candidates[f"{name}, twin in torch"] = candidate(predict(twin, images), 1, "cpu")
    print(machine())
    print(format_timings(compare(candidates, args.rounds)))
    for name in args.heads if args.parts else ():
        print(f"{name}: {parts(packed[name], images)}")


if __name__ == "__main__":
    main()
