"""Times of 1-bit layers as networks have them, one thread: the smallest of many calls, in microseconds of CPU time.

    python benchmarks/units.py [--rounds 300] [--only 3x3]
    REBNN_MM_ISA=avx2 python benchmarks/units.py

To compare two builds, run it in both checkouts in turn: on a busy machine the smallest time drifts least. Columns:
float in and out; signs in, float out; float in, both out; signs in and out, without residual and RPReLU;
torch's convolution alone in float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.layers.plan import Conv2dPlan
from rebnn_mm.deploy.operation.bits import to_bits
from rebnn_mm.deploy.operation.signs import to_signs
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Epilogue, InputSide
from rebnn_mm.workflows.timing import milliseconds

# C_in, C_out, kernel, stride, groups, H = W of the input
LAYERS = {
    "3x3": [(64, 64, 3, 1, 1, 56), (128, 128, 3, 1, 1, 28), (256, 256, 3, 1, 1, 14), (512, 512, 3, 1, 1, 7)],
    "1x1": [
        *[(64, 256, 1, 1, 1, 56), (256, 64, 1, 1, 1, 56), (512, 128, 1, 1, 1, 28)],
        *[(1024, 256, 1, 1, 1, 14), (256, 1024, 1, 1, 1, 14), (2048, 512, 1, 1, 1, 7)],
    ],
    "depthwise": [(96, 96, 3, 2, 96, 112), (384, 384, 3, 1, 384, 14), (768, 768, 9, 1, 768, 32)],
}


def smallest(call: Callable[[], Any], rounds: int) -> float:
    """Microseconds of CPU time of the fastest of ``rounds`` calls."""
    return min(milliseconds(call, "thread") for _ in range(rounds)) * 1e3


def calls(c_in: int, c_out: int, kernel: int, stride: int, groups: int, size: int) -> list[Callable[[], Any]]:
    """The columns for one layer: shift, convolution, norm, residual, RPReLU."""
    weight = torch.randn(c_out, c_in // groups, kernel, kernel)
    spec = ConvSpec.of(weight.shape, stride, kernel // 2, 1, groups)
    v, shift = torch.rand(c_out), InputSide(torch.rand(c_in))
    packed, after = to_bits(weight), Epilogue(v, None, (v, v), v, v, v)
    both = Epilogue(v, None, (v, v), v, v, v, sign=InputSide(v))
    signs_only = Epilogue(v, None, (v, v), sign=InputSide(v), floats=False)
    x = torch.randn(1, c_in, size, size).contiguous(memory_format=torch.channels_last)
    residual = torch.randn(1, c_out, *spec.output_size(size, size)).contiguous(memory_format=torch.channels_last)
    bits = to_signs(x)
    plans = [
        Conv2dPlan(packed, spec, *sides)
        for sides in ((shift, after), (InputSide(), after), (shift, both), (InputSide(), signs_only))
    ]
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    conv = conv.to(memory_format=torch.channels_last)
    return [
        lambda: plans[0](x, residual),
        lambda: plans[1](bits, residual),
        lambda: plans[2](x, residual),
        lambda: plans[3](bits),
        lambda: conv(x),
    ]


@torch.inference_mode()
def main() -> None:
    """Print a line for each layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300, help="default: 300")
    parser.add_argument("--only", choices=LAYERS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{library.current_isa()}: layer, float -> float, bits -> float, float -> both, bits -> bits, torch float")
    for name, layers in LAYERS.items():
        if arguments.only in (None, name):
            for layer in layers:
                times = [smallest(call, arguments.rounds) for call in calls(*layer)]
                c_in, c_out, kernel, stride, groups, size = layer
                label = f"{c_in}->{c_out} {kernel}x{kernel}/{stride} @{size}"
                print(f"{label:24}" + "".join(f"{value:9.1f}" for value in times), flush=True)


if __name__ == "__main__":
    main()
