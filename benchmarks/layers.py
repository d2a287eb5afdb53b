"""Times of packed layers beside float and int8 ones, one thread, float in and out.

    python benchmarks/layers.py [--rounds 31] [--onnx PYTHON] [--lce PYTHON]     # ResNet-18's 3x3 layers
    python benchmarks/layers.py --linear [--rounds 31]                           # BERT-base's linear layers
    ONEDNN_MAX_CPU_ISA=AVX2 REBNN_MM_ISA=avx2 python benchmarks/layers.py

A ratio is the median of the rounds' own ratios: on a busy machine single times drift, ratios of neighbours hardly do.
CPU time is counted, not wall time.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import Any

import torch
from peer import Peer
from torch import nn

from rebnn_mm.deploy.layers.operators import Conv2dPlan, LinearPlan
from rebnn_mm.deploy.operation.bits import to_bits
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Epilogue, InputSide
from rebnn_mm.kept_memory import keep_freed_memory
from rebnn_mm.workflows.timing import Candidate, candidate, compare, format_timings, machine

RESNET18_LAYERS = ((64, 56), (128, 28), (256, 14), (512, 7))
# (C_in, C_out): queries, keys, values and attention's output; the two of the feed-forward part
BERT_LAYERS = ((768, 768), (768, 3072), (3072, 768))
BERT_ROWS = (128, 1024)  # a sequence of 128 tokens, in batches of 1 and 8


def packed_layer(channels: int, size: int, full: bool, memory_format: torch.memory_format) -> Candidate:
    """The packed layer: alpha only, or ``full`` with shift, batch norm, residual and RPReLU."""
    v, weight = torch.rand(channels), torch.randn(channels, channels, 3, 3)
    spec = ConvSpec.of(weight.shape, padding=1)
    sides = (InputSide(v), Epilogue(v, None, (v, v), v, v, v)) if full else (InputSide(), Epilogue(v))
    plan = Conv2dPlan(to_bits(weight), spec, *sides)
    x = torch.randn(1, channels, size, size).contiguous(memory_format=memory_format)
    return candidate((lambda: plan(x, x)) if full else (lambda: plan(x)), clock="cpu")


def float_layers(channels: int, size: int) -> dict[str, Candidate]:
    """The fp32 convolution of torch in eager mode, and oneDNN's with a weight packed for this shape in advance."""
    x = torch.randn(1, channels, size, size)
    last = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3)
    weight_last = weight.contiguous(memory_format=torch.channels_last)
    calls: dict[str, Any] = {"torch fp32 eager, NHWC": lambda: nn.functional.conv2d(last, weight_last, None, 1, 1)}
    if torch.backends.mkldnn.is_available():
        one = [1, 1]
        reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # torch's own stub lacks the last argument
        packed = reorder(weight.to_mkldnn(), one, one, one, 1, list(x.shape))

        def onednn(x: torch.Tensor) -> torch.Tensor:
            return torch.ops.mkldnn._convolution_pointwise(x, packed, None, one, one, one, 1, "none", [], "")

        calls["oneDNN fp32 prepacked, NHWC"] = lambda: onednn(last)
        calls["oneDNN fp32 prepacked, NCHW"] = lambda: onednn(x)
    return {name: candidate(call, clock="cpu") for name, call in calls.items()}


def linear_layers(c_in: int, c_out: int, rows: int) -> dict[str, Candidate]:
    """The packed layer on (rows, C_in), torch's in fp32, and torch's int8 with dynamic scales of the input."""
    torch.manual_seed(0)
    layer = nn.Linear(c_in, c_out)
    x = torch.randn(rows, c_in)
    after = Epilogue(torch.rand(c_out), layer.bias)
    plan = LinearPlan(to_bits(layer.weight), ConvSpec.linear(c_out, c_in), InputSide(), after)
    int8 = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8)
    calls: dict[str, Any] = {"packed": lambda: plan(x), "torch fp32": lambda: layer(x)}
    calls[f"torch int8 dynamic ({torch.backends.quantized.engine})"] = lambda: int8(x)
    return {name: candidate(call, clock="cpu") for name, call in calls.items()}


def main() -> None:
    """Print a table for each layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--linear", action="store_true", help="BERT-base's linear layers")
    parser.add_argument("--rounds", type=int, default=31, help="default: 31")
    parser.add_argument("--onnx", metavar="PYTHON", help="interpreter that has onnx and onnxruntime")
    parser.add_argument("--lce", metavar="PYTHON", help="interpreter that has larq-compute-engine")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    keep_freed_memory()
    print(machine())
    if arguments.linear:
        for rows, (c_in, c_out) in ((rows, layer) for rows in BERT_ROWS for layer in BERT_LAYERS):
            print(f"\n{c_in} -> {c_out}, {rows} rows, {arguments.rounds} rounds, CPU time")
            print(format_timings(compare(linear_layers(c_in, c_out, rows), arguments.rounds)), flush=True)
        return
    wanted = [(arguments.onnx, "ort_fp32"), (arguments.onnx, "ort_int8"), (arguments.lce, "lce")]
    for channels, size in RESNET18_LAYERS:
        with ExitStack() as stack:
            last, first = torch.channels_last, torch.contiguous_format
            candidates = {"packed": packed_layer(channels, size, False, last)}
            candidates["packed, whole unit"] = packed_layer(channels, size, True, last)
            candidates["packed, NCHW"] = packed_layer(channels, size, False, first)
            candidates |= float_layers(channels, size)
            for python, kind in wanted:
                if python:
                    peer = stack.enter_context(Peer(python, kind, channels, size))
                    candidates[f"{peer.name} {kind}"] = peer
            print(f"\n{channels} channels at {size}x{size}, {arguments.rounds} rounds, CPU time")
            print(format_timings(compare(candidates, arguments.rounds)), flush=True)


if __name__ == "__main__":
    main()
