"""How far the results of a compiled OpenVINO network are from the packed network's in torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rebnn_mm.deploy.graph.network import flatten
from rebnn_mm.deploy.targets.network import Chain, Network
from rebnn_mm.deploy.targets.openvino.signs import TurnedSigns, turned_signs
from rebnn_mm.errors import UserError

# Each turned sign moves an output by a step, and those of noise through random weights add up. A wrong conversion is
# off by the size of the outputs themselves.
_TOLERANCE = 0.1


@dataclass(frozen=True)
class Comparison:
    """Outputs beside those of the packed network in torch.

    Attributes:
        difference: The largest of one element.
        mean: The mean absolute difference as a share of the mean absolute value; the worst output's.
        largest: The largest absolute value.
        signs: How many signs in front of 1-bit layers differ.
        same_decision: Whether the largest element of a classifier's scores is the same; None for other networks.
    """

    difference: float
    mean: float
    largest: float
    signs: TurnedSigns
    same_decision: bool | None = None

    def __str__(self) -> str:
        text = f"largest difference from the packed network in torch {self.difference:.2g}, of {self.largest:.3g}"
        decided = {None: "", True: "; the same class", False: "; another class, of noise"}
        return f"{text}; on average {self.mean:.2g} of a value; {self.signs}{decided[self.same_decision]}"


def compare(network: Network, model: Any, compiled: Any, inputs: Sequence[Tensor]) -> Comparison:
    """Run both.

    Args:
        network: A packed network, or several that are called one after the other.
        model: The ``openvino.Model`` of it.
        compiled: What that was compiled to.
        inputs: What both take.

    Raises:
        UserError: Results that rounding and turned signs do not explain.
    """
    with torch.no_grad():
        expected = flatten((Chain(network) if isinstance(network, list) else network)(*inputs))
    results = compiled([x.numpy() for x in inputs])
    found = [torch.from_numpy(np.array(results[port])) for port in compiled.outputs]
    pairs = list(zip(found, expected, strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        raise UserError(f"OpenVINO gives outputs of {[tuple(a.shape) for a in found]}, torch of {_shapes(expected)}")
    mean = max(float((a - b).abs().mean() / b.abs().mean().clamp_min(1e-12)) for a, b in pairs)
    scores = expected[0] if len(expected) == 1 and expected[0].dim() == 2 else None
    same = None if scores is None else bool((found[0].argmax(1) == scores.argmax(1)).all())
    difference = max(float((a - b).abs().max()) for a, b in pairs)
    largest = max(float(b.abs().max()) for b in expected)
    comparison = Comparison(difference, mean, largest, turned_signs(network, model, inputs), same)
    if not mean <= _TOLERANCE:  # NaN too
        whole = isinstance(network, list) and len(network) > 1
        parts = ": write its parts one by one, --part backbone and --part neck" if whole else ""
        raise UserError(f"OpenVINO's results are others than torch's: {comparison}; nothing was written{parts}")
    return comparison


def _shapes(tensors: Sequence[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in tensors]
