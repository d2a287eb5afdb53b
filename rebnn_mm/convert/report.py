"""The report of ``binarize``: which layers it replaced and kept, and how much of the model is 1-bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from rebnn_mm.analysis.opcount import count_model
from rebnn_mm.layers.interface import BinaryLayer
from rebnn_mm.weight_readers import run_sample

_SHOWN = 3


@dataclass(frozen=True)
class BinarizeReport:
    """What :func:`rebnn_mm.convert.binarize` did.

    Attributes:
        replaced: Dotted name of each layer that is 1-bit now -> its description.
        kept: Dotted name of each convolution, linear layer or attention left as it was -> the reason.
        weights: Share of the model's parameters that are 1-bit weights, in [0, 1]; earlier 1-bit layers count too.
        operations: Share of the multiply-accumulates with both sides 1-bit on the sample, in [0, 1]; those of
            convolutions and linear layers are counted, the products of attention are not. None without a sample.
        real_weights: The modules with most of the real-valued parameters -> their share of all parameters.
        real_operations: The layers with most of the real-valued operations -> their share of all operations.
    """

    replaced: dict[str, str]
    kept: dict[str, str]
    weights: float = 0.0
    operations: float | None = None
    real_weights: dict[str, float] = field(default_factory=dict)
    real_operations: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"binarized {len(self.replaced)} layers, kept {len(self.kept)}"]
        lines += [f"  share   {self.weights:.1%} of the weights are 1-bit{_largest(self.real_weights)}"]
        if self.operations is not None:
            lines += [f"  share   {self.operations:.1%} of the operations are 1-bit{_largest(self.real_operations)}"]
        lines += [f"  1-bit  {name}: {what}" for name, what in self.replaced.items()]
        lines += [f"  kept   {name}: {why}" for name, why in self.kept.items()]
        return "\n".join(lines)


def make_report(model: nn.Module, replaced: dict[str, str], kept: dict[str, str], sample: Any) -> BinarizeReport:
    """Count what is 1-bit in ``model``, operations only with a ``sample``."""
    weights, real_weights = _weights(model)
    if sample is None:
        return BinarizeReport(replaced, kept, weights, None, real_weights)
    count = count_model(model, lambda copy: run_sample(copy, sample))
    total = max(1, count.flops + count.bops)
    real = {layer.name: layer.flops / total for layer in count.layers}
    return BinarizeReport(replaced, kept, weights, count.bops / total, real_weights, _top(real))


def _weights(model: nn.Module) -> tuple[float, dict[str, float]]:
    """Share of 1-bit weights among all parameters, each counted once, and where most of the others are."""
    seen: set[int] = set()
    binary, real = 0, {}
    for name, module in model.named_modules():
        own = 0
        for key, parameter in module._parameters.items():
            if parameter is None or id(parameter) in seen or is_lazy(parameter):
                continue
            seen.add(id(parameter))
            if key == "weight" and isinstance(module, BinaryLayer) and module.binarizes_weight:
                binary += parameter.numel()
            else:
                own += parameter.numel()
        real[name or "(model)"] = float(own)
    total = max(1.0, binary + sum(real.values()))
    return binary / total, _top({name: count / total for name, count in real.items()})


def _top(shares: dict[str, float]) -> dict[str, float]:
    largest = sorted(shares.items(), key=lambda item: -item[1])[:_SHOWN]
    return {name: share for name, share in largest if share > 0}


def _largest(shares: dict[str, float]) -> str:
    return "; most of the rest: " + ", ".join(f"{n} {share:.1%}" for n, share in shares.items()) if shares else ""
