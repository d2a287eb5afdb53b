"""Whether a program computes what the packed network does.

XNNPACK adds in another order than torch, so results differ in their last digits; and where a value in front of a 1-bit
layer lies that near to 0, its sign turns, which shows in the results as more than rounding. So "the same" is: most
results agree up to rounding, all of them up to what some turned signs do, and decisions agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rebnn_mm.deploy.executorch.program import runner_of
from rebnn_mm.deploy.graph.network import flatten
from rebnn_mm.deploy.verify import TOLERANCE
from rebnn_mm.errors import UserError

# Of the results' size, in the median of the inputs. A wrong layout or a layer left out gives 1 and more.
MOST = 0.3


def compare_program(
    data: bytes, network: nn.Module, samples: Sequence[Sequence[Tensor]], decides: bool
) -> tuple[str, ...]:
    """Run both on each sample; lines that say how they differ.

    Args:
        data: A program, with or without its seal.
        network: The packed network.
        samples: Inputs.
        decides: The first result are class scores.

    Raises:
        UserError: They are not the same network.
    """
    name, run = runner_of(data)
    largest, differences, decisions = 0.0, [], 0
    for inputs in samples:
        with torch.no_grad():
            expected = flatten(network(*inputs))
        found = run(inputs)
        if name == "rebnn_run":
            expected = [torch.cat([y.flatten() for y in expected])]
        if [y.shape for y in expected] != [y.shape for y in found]:
            raise UserError(
                f"the program gives results of {[tuple(y.shape) for y in found]}, the network of "
                f"{[tuple(y.shape) for y in expected]}: no file was written"
            )
        pairs = list(zip(expected, found, strict=True))
        largest = max([largest, *(float((a - b).abs().max()) for a, b in pairs if a.numel())])
        differences.append(max(_relative(a, b) for a, b in pairs))
        decisions += bool(expected[0].flatten().argmax() == found[0].flatten().argmax())
    median = sorted(differences)[len(differences) // 2]
    if not median <= MOST:  # NaN too
        raise UserError(
            f"the program differs from the packed network by {median:.2g} of its results' size, more than turned signs "
            "explain: no file was written; please report this network"
        )
    rounding = sum(difference <= TOLERANCE for difference in differences)
    lines = [
        f"compared with the packed network on {len(samples)} inputs, by {name}:",
        f"  largest difference {largest:.3g}; {rounding} inputs agree up to rounding, in {len(samples) - rounding} "
        "signs of values near 0 turned",
    ]
    return (*lines, f"  equal decisions: {decisions} of {len(samples)}") if decides else tuple(lines)


def _relative(a: Tensor, b: Tensor) -> float:
    """Size of the difference by that of ``a``."""
    norm = float(a.double().norm())
    difference = float((a.double() - b.double()).norm())
    return difference / norm if norm else difference
