"""Whether a program computes what the packed network does.

XNNPACK adds in another order than torch, so results differ in their last digits; and where a value in front of a 1-bit
layer lies that near to 0, its sign turns, which shows in the results as more than rounding. So "the same" is: most
results agree up to rounding, all of them up to what some turned signs do, and decisions agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm.deploy.graph.network import flatten
from rebnn_mm.deploy.targets.executorch.program import runner_of
from rebnn_mm.deploy.verify import TOLERANCE
from rebnn_mm.errors import UserError

# Of what results differ by from input to input, in the median over inputs. A sound program of a trained ResNet-18 gave
# 2e-7 on images and 7e-7 on noise; with its images mirrored it gave 0.19 on images and 1 on noise, with their mean left
# in 0.43 and 4, with another layout or order of channels 0.68 and more on both (docs/executorch.md).
MOST = 0.1


def compare_program(
    data: bytes, network: nn.Module, samples: Sequence[Sequence[Tensor]], decides: bool, method: str = "forward"
) -> tuple[str, ...]:
    """Run both on each sample; lines that say how they differ.

    Args:
        data: A program, with or without its seal.
        network: The packed network.
        samples: Inputs.
        decides: The first result are class scores.
        method: Of the program.

    Raises:
        UserError: They are not the same network.
    """
    name, run = runner_of(data, method)
    pairs = [_both(network, run, inputs, name == "rebnn_run") for inputs in samples]
    differences = [float((a - b).norm()) for a, b, _ in pairs]
    spread = _spread([a for a, _, _ in pairs])
    median = sorted(differences)[len(differences) // 2] / spread
    if not median <= MOST:  # NaN too
        raise UserError(
            f"the program differs from the packed network by {median:.2g} of what results differ from input to input, "
            "more than turned signs explain: no file was written; please report this network"
        )
    largest = max(float((a - b).abs().max()) for a, b, _ in pairs)
    decisions = sum(same for _, _, same in pairs)
    rounding = sum(d <= TOLERANCE * float(a.norm()) for d, (a, _, _) in zip(differences, pairs, strict=True))
    lines = [
        f"{method} compared with the packed network on {len(samples)} inputs, by {name}:",
        f"  largest difference {largest:.3g}; {rounding} inputs agree up to rounding, in {len(samples) - rounding} "
        "signs of values near 0 turned",
    ]
    return (*lines, f"  equal decisions: {decisions} of {len(samples)}") if decides else tuple(lines)


def _both(network: nn.Module, run: Any, inputs: Sequence[Tensor], flat: bool) -> tuple[Tensor, Tensor, bool]:
    """All results of the network, and of the program, in a row; whether the first result's largest is the same."""
    with torch.no_grad():
        expected = flatten(network(*inputs))
    found = run(inputs)
    shapes = [[tuple(y.shape) for y in results] for results in (expected, found)]
    if shapes[0] != shapes[1] and not flat:
        raise UserError(f"the program gives results of {shapes[1]}, the network of {shapes[0]}: no file was written")
    rows = [torch.cat([y.flatten() for y in results]).double() for results in (expected, found)]
    if rows[0].shape != rows[1].shape:
        raise UserError(
            f"the program gives {rows[1].numel()} values, the network {rows[0].numel()}: no file was written"
        )
    first = expected[0].numel()
    return rows[0], rows[1], bool(rows[0][:first].argmax() == rows[1][:first].argmax())


def _spread(rows: Sequence[Tensor]) -> float:
    """How far results lie from their mean; of a single one, its size. Where all are the same, rounding is left."""
    mean = torch.stack(list(rows)).mean(0) if len(rows) > 1 else torch.zeros_like(rows[0])
    size = float(torch.stack([row.norm() for row in rows]).mean())
    return max(float(torch.stack([(row - mean).norm() for row in rows]).mean()), 1e-4 * size, 1e-12)
