"""A packed ResNet-18 as an ExecuTorch program beside its float and int8 twins and eager torch: one thread, batch 1.

sh runtime/build.sh build
python benchmarks/executorch_programs.py [--size 224] [--rounds 9] [--calls 15] [--peers]

Weights are random. Programs run in ``rebnn_run``, each round a process of its own, in turn; a time is the median of a
process' calls, in CPU time, so that other programs on the machine disturb it less. The spread is that of the rounds.
--peers adds OpenVINO's 1-bit kernels and onnxruntime, which need openvino, onnx and onnxruntime.
"""

import argparse
import json
import logging
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.deploy import Check, ModelCard, export_model, load_model
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.targets.executorch.export import edge_module, export_executorch
from rebnn_mm.deploy.targets.executorch.file import sealed
from rebnn_mm.deploy.targets.executorch.lowering import lower_methods
from rebnn_mm.deploy.targets.executorch.program import runtime_folder
from rebnn_mm.deploy.targets.executorch.program_card import program_card
from rebnn_mm.deploy.targets.network import network_of
from rebnn_mm.workflows.benchmark import onnxruntime_models
from rebnn_mm.workflows.timing import machine


class Classifier(nn.Module):
    """ResNet-18 of 1000 classes; real-valued with ``conv_cfg=None``."""

    def __init__(self, **backbone) -> None:
        super().__init__()
        self.backbone, self.head = ReBNNResNet(18, **backbone), nn.Linear(512, 1000)

    def forward(self, x):
        """(N, 3, H, W) -> (N, 1000)."""
        (y,) = self.backbone(x)
        return self.head(y.mean((2, 3), keepdim=True).flatten(1))


def int8_of(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """The model in ExecuTorch's static int8, calibrated on noise: for times, not for accuracy."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(model, (x,)).module(), quantizer)
    for _ in range(2):
        prepared(torch.randn_like(x))
    return convert_pt2e(prepared)


def run(path: Path, calls: int) -> dict[str, float]:
    """What one process of ``rebnn_run`` says: milliseconds of CPU time, of the start, and megabytes."""
    command = [str(runtime_folder() / "rebnn_run"), str(path), "--noise", "--repeat", str(calls)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    patterns = dict(cpu=r"CPU time median ([\d.]+)", first=r"first result after ([\d.]+)", memory=r"memory ([\d.]+)")
    patterns["binary"] = r"in own kernels ([\d.]+)"
    return {name: float(re.search(pattern, text).group(1)) for name, pattern in patterns.items()}


def here(call: Callable[[], object], calls: int) -> dict[str, float]:
    """The same in this process."""
    times = []
    with torch.inference_mode():
        for _ in range(calls):
            begin = time.process_time()
            call()
            times.append(1e3 * (time.process_time() - begin))
    return dict(cpu=statistics.median(times))


def peers(path: Path, network: GraphNetwork, x: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The same network in other run-times, ready to be called on ``x``."""
    from openvino_peer import openvino_call

    from rebnn_mm.deploy.targets.openvino.export import to_openvino

    openvino = openvino_call(to_openvino(network, [x.shape]), x, 1, nhwc=False)
    return {"OpenVINO, 1-bit": openvino, **onnxruntime_models(path, x, 1)}


def main() -> None:
    """Export, run in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=15)
    parser.add_argument("--peers", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(machine())
    x = torch.randn(1, 3, args.size, args.size)
    last = x.contiguous(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        export_model(Classifier().eval(), folder / "m.rebnn", ModelCard(), Check([x]))
        print(export_executorch(folder / "m.rebnn", folder / "binary.pte", size=(args.size, args.size)))
        real = real_twin(last)
        for kind, module in (("float", real), ("int8", int8_of(real, last))):
            program = lower_methods({"forward": (module, [x])}, program_card(ModelCard(), [x], 1), allow_slow=True)
            (folder / f"{kind}.pte").write_bytes(sealed(program.data))
            print(f"{kind}: {program.placement}")
        packed = {exact: load_model(folder / "m.rebnn", exact=exact) for exact in (True, False)}
        in_process = {f"eager packed, exact={exact}": partial(network, x) for exact, network in packed.items()}
        if args.peers:
            in_process |= peers(folder / "m.rebnn", packed[False], x)
        rounds: dict[str, list[dict[str, float]]] = {}
        for _ in range(args.rounds):
            for kind in ("binary", "float", "int8"):
                rounds.setdefault(f"{kind}.pte", []).append(run(folder / f"{kind}.pte", args.calls))
            for name, call in in_process.items():
                rounds.setdefault(name, []).append(here(call, args.calls))
        sizes = {path.name: path.stat().st_size / 1e6 for path in folder.glob("*.pte")}
    print_table(rounds, sizes)


def real_twin(x: torch.Tensor) -> nn.Module:
    """A real-valued ResNet-18 in the same edge form, its norms folded, for XNNPACK alone."""
    import torchvision

    network = network_of(torchvision.models.resnet18().eval(), [x])
    return edge_module([network], [x], real=False).requires_grad_(False)


def print_table(rounds: dict[str, list[dict[str, float]]], sizes: dict[str, float]) -> None:
    """One line each; a ratio is the median of the rounds' own."""
    base = [one["cpu"] for one in rounds["binary.pte"]]
    print(
        f"\n{'':36}{'CPU ms':>8}{'min':>8}{'max':>8}{'times':>8}{'own':>8}{'first ms':>10}{'peak MB':>9}{'file MB':>9}"
    )
    for name, ran in rounds.items():
        cpu = [one["cpu"] for one in ran]
        ratio = statistics.median(a / b for a, b in zip(cpu, base, strict=True))
        rest = ""
        if "first" in ran[0]:
            first, memory, binary = (
                statistics.median(one[key] for one in ran) for key in ("first", "memory", "binary")
            )
            rest = f"{binary:8.2f}{first:10.1f}{memory:9.1f}{sizes[name]:9.2f}"
        print(f"{name:36}{statistics.median(cpu):8.2f}{min(cpu):8.2f}{max(cpu):8.2f}{ratio:8.2f}{rest}")
    print(json.dumps({name: [round(one["cpu"], 3) for one in ran] for name, ran in rounds.items()}))


if __name__ == "__main__":
    main()
