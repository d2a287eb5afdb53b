"""ReActNet-A packed, beside MobileNet-V1 in float, whose widths it has. One thread, batch 1, CPU time.

python benchmarks/reactnet_a.py [--size 224] [--rounds 11] [--profile]    (needs onnx and onnxruntime)

Weights are random. MobileNet-V1 (Howard et al., 2017) is written out here, its batch norms folded by onnxruntime.
"""

import argparse
import tempfile
from pathlib import Path

import onnxruntime
import torch
from steps import profile
from torch import nn

from rebnn_mm.backbones import ReBNNMobileNet
from rebnn_mm.deploy import Check, export_model, load_model
from rebnn_mm.kept_memory import keep_freed_memory
from rebnn_mm.workflows.timing import candidate, compare, format_timings, machine

WIDTHS = (64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)


class Pooled(nn.Module):
    """A backbone with ReActNet's classifier."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(1024, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, 1000)."""
        return self.fc(self.backbone(x)[-1].mean(dim=(2, 3)))


def mobilenet_v1() -> nn.Module:
    """MobileNet-V1 of full width, 4.2 million weights."""

    def conv(inputs: int, outputs: int, size: int, stride: int, groups: int = 1) -> nn.Sequential:
        layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    layers, inputs = [conv(3, 32, 3, 2)], 32
    for index, outputs in enumerate(WIDTHS):
        stride = 2 if index and outputs != inputs else 1
        layers += [conv(inputs, inputs, 3, stride, inputs), conv(inputs, outputs, 1, 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000))


def main() -> None:
    """Export both, time in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--profile", action="store_true", help="also the time of each kind of step, alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    x = torch.randn(1, 3, args.size, args.size)
    real = mobilenet_v1().eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.rebnn"
        trained = Pooled(ReBNNMobileNet(dict(type="ReActConv2d"))).eval()
        size = export_model(trained, path, check=Check([torch.randn(1, 3, 64, 64)], exact=True)).size
        packed = load_model(path)
        torch.onnx.export(real, (x,), str(Path(folder) / "m.onnx"), dynamo=False, input_names=["x"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(Path(folder) / "m.onnx", options, providers=["CPUExecutionProvider"])
    twin = Pooled(ReBNNMobileNet(dict(type="Conv2d"))).eval()
    calls = {
        "ReActNet-A, packed": lambda: packed(x),
        "MobileNet-V1, onnxruntime float": lambda: session.run(None, {"x": x.numpy()}),
        "MobileNet-V1, torch float": lambda: real(x),
        "ReActNet-A's twin, torch float": lambda: twin(x),
    }
    candidates = {name: candidate(call, 1, "cpu") for name, call in calls.items()}
    print(f"{machine()}\nfile        {size / 1e6:.2f} MB\n")
    with torch.inference_mode():
        print(format_timings(compare(candidates, args.rounds)), flush=True)
    if args.profile:
        print(profile(packed, x))


if __name__ == "__main__":
    main()
