"""Real-valued weights in a file: kept in 32 bits or rounded to 16 or 8, and how far rounding changes the outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm.deploy.file.tensors import BinaryTensor, Stored, parts_of
from rebnn_mm.deploy.operation.int8 import QuantizedTensor, quantize
from rebnn_mm.deploy.verify import Check, run
from rebnn_mm.errors import UserError
from rebnn_mm.layers import BinaryLayer

# Values. Smaller weights stay in float32 beside 8-bit ones: a token type embedding, a squeeze layer. They cost little.
LEAST = 1024
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def real_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of real-valued convolutions, linear layers, attentions and embeddings, by all their names.

    Everything else stays as it is: norms, biases, slopes, position tables, and what belongs to 1-bit layers (alpha,
    shifts). A parametrized weight is computed anew in each call, and is not among them.
    """
    found: dict[str, Tensor] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, BinaryLayer) and module.binarizes_weight:
            continue
        names: tuple[str, ...] = ()
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding)):
            names = ("weight",)
        elif isinstance(module, nn.MultiheadAttention):
            names = _ATTENTION_WEIGHTS
        for name in names:
            weight = module._parameters.get(name)
            if weight is not None:
                found[f"{prefix}.{name}" if prefix else name] = weight.data
    return found


class Rounding:
    """How a file holds real-valued weights.

    Args:
        kind: ``'float16'``, ``'int8'``, or None for float32.
    """

    def __init__(self, kind: str | None) -> None:
        self.kind = kind
        self._scales: dict[str, Tensor] = {}  # of the names rounded to 8 bits
        self._names: set[str] = set()

    def apply(self, model: nn.Module) -> None:
        """Round the weights of ``model`` in place, to the values that the file will hold.

        Raises:
            UserError: A weight does not fit: beyond float16, NaN, infinite.
        """
        if self.kind is None:
            return
        done: dict[int, Tensor | None] = {}  # tied weights are rounded once
        for name, weight in real_weights(model).items():
            place = weight.data_ptr()
            if place not in done:
                done[place] = self._round(name, weight)
            scale = done[place]
            if scale is not None:
                self._scales[name] = scale
            self._names.add(name)

    def _round(self, name: str, weight: Tensor) -> Tensor | None:
        if not weight.numel():
            return None
        if self.kind == "float16":
            largest = float(weight.abs().max())
            if largest > torch.finfo(torch.float16).max:
                raise UserError(f"{name} reaches {largest:.3g}, beyond float16: export in float32")
            weight.copy_(weight.half())
        elif weight.numel() >= LEAST and weight.dtype == torch.float32:
            rounded = quantize(weight, name=name)
            weight.copy_(rounded.dequantize())
            return rounded.scale
        return None

    def stored(self, name: str, tensor: Stored) -> Stored:
        """The tensor of this name as a file holds it, from a model to which this was applied.

        A weight that a graph pass has changed is kept in float32, unless it can be had from the same steps: a pass may
        turn the sign of an output channel.
        """
        if not isinstance(tensor, Tensor) or name not in self._names:
            return tensor
        if self.kind == "float16":
            half = tensor.half()
            return half if torch.equal(half.float(), tensor) else tensor
        scale = self._scales.get(name)
        if scale is None or tensor.shape[:1] != scale.shape:
            return tensor
        rounded = quantize(tensor, scale)
        return rounded if torch.equal(rounded.dequantize(), tensor) else tensor

    def change(
        self, trained: nn.Module, rounded: nn.Module, check: Check | None, tensors: Mapping[str, Stored]
    ) -> dict[str, Any] | None:
        """What rounding changes, as plain values; None where nothing is rounded.

        ``layers`` of ``tensors``, the file's, are rounded, which take ``bytes_after`` instead of ``bytes_before``.
        ``weights`` and ``outputs`` are the largest change of a value relative to the largest value of its tensor.
        ``turned`` of ``decisions`` came out otherwise: which of a row of scores is the largest, for outputs (N, C), and
        each value of an integer output, labels for example. Without ``check`` these are None, but for ``weights``.
        """
        if self.kind is None:
            return None
        stored = [tensor for tensor in tensors.values() if precision(tensor) == self.kind]
        sizes = dict(
            layers=len(stored),
            bytes_before=sum(4 * tensor.shape.numel() for tensor in stored if not isinstance(tensor, BinaryTensor)),
            bytes_after=sum(part.numel() * part.element_size() for tensor in stored for part in parts_of(tensor)),
        )
        weights = zip(trained.state_dict().values(), rounded.state_dict().values(), strict=True)
        worst = max(_relative(a, b) for a, b in weights if a.is_floating_point())
        if check is None:
            return dict(weights=worst, outputs=None, turned=None, decisions=None, **sizes)
        outputs, turned, decisions = 0.0, 0, 0
        for x in check.inputs:
            a, b = run(trained, x, check), run(rounded, x, check)
            for name in [name for name in a if name in b]:
                chosen = name.split(".")[0] in check.chosen  # their order and number change with any last digit
                if not chosen and a[name].shape == b[name].shape and a[name].numel():
                    outputs = max(outputs, _relative(a[name], b[name]))
                if a[name].dtype == torch.int64 or (a[name].dim() == 2 and not chosen):
                    here = _turned(a[name], b[name])
                    turned, decisions = turned + here[0], decisions + here[1]
        return dict(weights=worst, outputs=outputs, turned=turned, decisions=decisions, **sizes)


def precision(tensor: Stored) -> str:
    """How a file holds it: ``'1-bit'``, ``'int8'``, ``'float16'``, else ``'real'``."""
    if isinstance(tensor, BinaryTensor):
        return "1-bit"
    if isinstance(tensor, QuantizedTensor):
        return "int8"
    return "float16" if tensor.dtype == torch.float16 else "real"


def _turned(a: Tensor, b: Tensor) -> tuple[int, int]:
    """(decisions that differ, decisions) of one output."""
    if a.is_floating_point():
        if a.shape != b.shape or a.shape[1] < 2:
            return 0, 0
        a, b = a.argmax(dim=1), b.argmax(dim=1)
    a, b = a.flatten(), b.flatten()
    both = min(len(a), len(b))
    return int((a[:both] != b[:both]).sum()) + abs(len(a) - len(b)), max(len(a), len(b))


def _relative(a: Tensor, b: Tensor) -> float:
    scale = float(a.abs().max()) if a.numel() else 0.0
    return float((a.double() - b.double()).abs().max()) / scale if scale > 0 else 0.0
