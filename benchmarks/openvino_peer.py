"""OpenVINO's own 1-bit kernels beside ours: ResNet-18's 3x3 layers, whole units and the whole network, in one run.

python benchmarks/openvino_peer.py [--rounds 31] [--threads 1 2] [--size 224]

It needs the package openvino. One thread is timed in CPU seconds of this process, more in wall time. Layers take and
give floats whose channels lie side by side (NHWC), the layout of both, so that no copy is timed. OpenVINO's 'as found'
is what its plugin makes by itself of a FakeQuantize to -1 and +1 and an ordinary Convolution; the other form is what
our exporter writes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.backbones.blocks import BinaryUnit
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.targets.network import network_of
from rebnn_mm.deploy.targets.onnx.export import to_onnx
from rebnn_mm.deploy.targets.openvino.compare import compare as compare_results
from rebnn_mm.deploy.targets.openvino.core import compile_model, core
from rebnn_mm.deploy.targets.openvino.export import to_openvino
from rebnn_mm.deploy.targets.openvino.report import primitives
from rebnn_mm.kept_memory import keep_freed_memory
from rebnn_mm.layers import ReBNNConv2d
from rebnn_mm.workflows.timing import Candidate, candidate, compare, format_timings, machine

LAYERS = ((64, 56), (128, 28), (256, 14), (512, 7))


class Classifier(nn.Module):
    """ReBNN's ResNet-18 with its classifier of 1,000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.fc = ReBNNResNet(depth=18), nn.Linear(512, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) -> logits (N, 1000)."""
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


class Unit(nn.Module):
    """A whole unit of the network: shift, 1-bit convolution, norm, residual, RPReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.unit = BinaryUnit(channels, channels, 3, 1, dict(type="ReBNNConv2d"), dict(type="BN"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> the same shape."""
        return self.unit(x, x)


def used(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """The model in eval mode, with norms that have seen a batch."""
    with torch.no_grad():
        model.train()(torch.cat([x, torch.randn_like(x)]))
    return model.eval()


def openvino_call(model: Any, x: torch.Tensor, threads: int, nhwc: bool = True) -> Callable[[], object]:
    """An ``openvino.Model`` on one input, ready to be timed."""
    import openvino
    from openvino.preprocess import PrePostProcessor

    array = np.ascontiguousarray(x.numpy())
    if nhwc:
        around, layouts = PrePostProcessor(model), (openvino.Layout("NHWC"), openvino.Layout("NCHW"))
        around.input().tensor().set_layout(layouts[0])
        around.input().model().set_layout(layouts[1])
        around.output().tensor().set_layout(layouts[0])
        around.output().model().set_layout(layouts[1])
        model, array = around.build(), np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    request = compile_model(model, threads).create_infer_request()
    request.set_input_tensor(openvino.Tensor(array, shared_memory=True))
    return request.infer


def as_found(channels: int, size: int) -> Any:
    """FakeQuantize to -1 and +1, an ordinary convolution with weights of -1 and +1, a scale for each channel."""
    import openvino
    from openvino import opset1

    random = np.random.default_rng(0)
    low, high = (openvino.op.Constant(np.array(end, np.float32)) for end in (-1, 1))
    x = opset1.parameter([1, channels, size, size], np.float32)
    signs = opset1.fake_quantize(x, low, high, low, high, levels=2)
    weight = random.choice([-1, 1], (channels, channels, 3, 3)).astype(np.float32)
    y = opset1.convolution(signs, openvino.op.Constant(weight), [1, 1], [1, 1], [1, 1], [1, 1])
    y = opset1.multiply(y, openvino.op.Constant(random.random((1, channels, 1, 1), np.float32)))
    return openvino.Model([y], [x])


def layer_candidates(channels: int, size: int, threads: int) -> dict[str, Candidate]:
    """The 3x3 layer with its scale, and the whole unit, in each run-time."""
    x = torch.randn(1, channels, size, size)
    last, clock = x.contiguous(memory_format=torch.channels_last), "cpu" if threads == 1 else "wall"
    layer = used(ReBNNConv2d(channels, channels, 3, padding=1, bias=False, input_norm=False), x)
    unit = used(Unit(channels), x)
    calls: dict[str, Callable[[], object]] = {}
    for name, module in (("layer", layer), ("unit", unit)):
        network = network_of(module, [x])
        assert isinstance(network, GraphNetwork)
        model = to_openvino(network, [x.shape])
        compare_results(network, model, compile_model(model), [x])
        calls[f"{name}, packed"] = lambda network=network: network(last)
        calls[f"{name}, OpenVINO 1-bit"] = openvino_call(model, x, threads)
    calls["layer, OpenVINO 1-bit as found"] = openvino_call(as_found(channels, size), x, threads, nhwc=False)
    real = as_real(network_of(layer, [x]), x)
    calls["layer, OpenVINO float32"] = openvino_call(real, x, threads)
    return {name: candidate(call, threads, clock) for name, call in calls.items()}


def as_real(network: Any, x: torch.Tensor) -> Any:
    """The same network with real-valued layers, for its time only."""
    model = core().read_model(to_onnx(network, "real").SerializeToString())
    model.reshape(list(x.shape))
    return model


def network_candidates(size: int, threads: int) -> dict[str, Candidate]:
    """The whole ResNet-18, normalized image to logits."""
    x, clock = torch.randn(1, 3, size, size), "cpu" if threads == 1 else "wall"
    model = used(Classifier(), x)
    network = network_of(model, [x])  # folded norms, the faster layouts
    assert isinstance(network, GraphNetwork)
    exact = GraphNetwork(network._record, network.traced().tensors, exact=True)
    ready = to_openvino(network, [x.shape])
    compiled = compile_model(ready)
    on_bits = sum(p.on_bits and p.kind == "BinaryConvolution" for p in primitives(compiled))
    print(f"{compare_results(network, ready, compiled, [x])}; {on_bits} layers on bits in OpenVINO")
    calls: dict[str, Callable[[], object]] = {
        "packed, exact=False": lambda: network(x),
        "packed": lambda: exact(x),
        "OpenVINO 1-bit": openvino_call(ready, x, threads, nhwc=False),
        "OpenVINO float32": openvino_call(as_real(network, x), x, threads, nhwc=False),
    }
    return {name: candidate(call, threads, clock) for name, call in calls.items()}


def main() -> None:
    """Time in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", type=int, default=224, help="height and width of the image")
    args = parser.parse_args()
    import openvino

    torch.set_grad_enabled(False)
    keep_freed_memory()
    print(f"{machine()}\npeer        OpenVINO {openvino.__version__}")
    for threads in args.threads:
        time = "CPU time" if threads == 1 else "wall time"
        for channels, size in LAYERS:
            torch.manual_seed(0)
            print(f"\n{channels} channels at {size}x{size}, {threads} threads, {time}", flush=True)
            print(format_timings(compare(layer_candidates(channels, size, threads), args.rounds)), flush=True)
        torch.manual_seed(0)
        print(f"\nResNet-18, {args.size}x{args.size}, {threads} threads, {time}", flush=True)
        print(format_timings(compare(network_candidates(args.size, threads), args.rounds)), flush=True)


if __name__ == "__main__":
    main()
