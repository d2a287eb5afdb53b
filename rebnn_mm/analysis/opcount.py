"""Operations and bytes of a model, layer by layer: which layers are 1-bit, and what they cost.

Counted: multiply-accumulates of convolutions, transposed convolutions and linear layers, and of the four projections
inside an ``nn.MultiheadAttention``, by hooks on their forwards. Not counted: norms, activations, shifts, pooling, the
scale by alpha, attention products, deformable convolutions, and anything computed without such a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from rebnn_mm.copying import copy_model
from rebnn_mm.errors import UserError
from rebnn_mm.layers.interface import BinaryLayer, is_training_only


@dataclass(frozen=True)
class LayerCount:
    """Cost of one module's own tensors and forward calls.

    Attributes:
        name: Dotted name in the model.
        kind: Class name.
        precision: ``'W1A1'``, ``'W1A32'``, ``'W32A1'`` or ``'real'``.
        calls: Forward calls in the counted run; an RPN head is called once for each level.
        flops: Multiply-accumulates with a real-valued side (W1A32 and W32A1 among them), all calls.
        bops: Multiply-accumulates with both sides 1-bit, all calls.
        bytes_trained: Parameters and persistent buffers, as in a checkpoint's state dict.
        bytes_packed: What inference needs. A binary weight takes 1 bit, each output channel padded
            to whole bytes, and one fp32 scale a channel; all else keeps its type.
    """

    name: str
    kind: str
    precision: str
    calls: int
    flops: int
    bops: int
    bytes_trained: int
    bytes_packed: int

    @property
    def ops(self) -> float:
        """Equivalent operations, ``flops + bops / 64`` (Bi-Real Net, ECCV 2018, section 4.3)."""
        return self.flops + self.bops / 64


@dataclass(frozen=True)
class ModelCount:
    """Cost of a model for the counted run; the units are those of :class:`LayerCount`.

    Attributes:
        layers: Convolutions and linear layers, in the model's order.
        others: The other modules that hold tensors (norms, shifts, PReLU): bytes only.
    """

    layers: tuple[LayerCount, ...]
    others: tuple[LayerCount, ...]

    @property
    def flops(self) -> int:
        """Real-valued multiply-accumulates."""
        return sum(layer.flops for layer in self.layers)

    @property
    def bops(self) -> int:
        """Binary multiply-accumulates."""
        return sum(layer.bops for layer in self.layers)

    @property
    def ops(self) -> float:
        """Equivalent operations, ``flops + bops / 64`` (Bi-Real Net, ECCV 2018, section 4.3)."""
        return self.flops + self.bops / 64

    @property
    def bytes_trained(self) -> int:
        """Bytes of all parameters and persistent buffers; a shared tensor counts once."""
        return sum(entry.bytes_trained for entry in (*self.layers, *self.others))

    @property
    def bytes_packed(self) -> int:
        """Bytes that inference needs, binary weights packed."""
        return sum(entry.bytes_packed for entry in (*self.layers, *self.others))


def count_model(model: nn.Module, forward: Callable[[nn.Module], Any]) -> ModelCount:
    """Run ``forward(model)`` once in eval mode without gradients and count each layer.

    The run happens on a copy: a first forward may change a model (alpha taken from the weights),
    and counting must not. So ``forward`` has to use the model it is given. The counts are those of
    this one run: give it one image to have them for one image.

    Raises:
        ValueError: No convolution or linear layer was called.
    """
    model = copy_model(model)
    macs: dict[nn.Module, list[int]] = {}
    handles = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if isinstance(module, nn.MultiheadAttention):
            macs[module].append(_attention_macs(module, *args, **kwargs))
        else:
            macs[module].append(_macs(module, args[0] if args else next(iter(kwargs.values())), output))

    try:
        for module in _counted(model):
            macs[module] = []
            handles.append(module.register_forward_hook(record, with_kwargs=True))
        with torch.no_grad():
            forward(model)
    finally:
        for handle in handles:
            handle.remove()
    if not any(macs.values()):
        raise UserError(
            f"no convolution or linear layer of {type(model).__name__} was called: forward must run the model it is "
            "given, and the model must have such layers"
        )
    return _collect(model, macs)


def count_bytes(model: nn.Module) -> ModelCount:
    """Bytes of each layer without running the model: calls and operations are 0."""
    return _collect(model, {layer: [] for layer in _counted(model)})


def _counted(model: nn.Module) -> list[nn.Module]:
    """The modules that have a row of their own; an attention's projections are in its row."""
    inside = {
        part for module in model.modules() if isinstance(module, nn.MultiheadAttention) for part in module.children()
    }
    kinds = (_ConvNd, nn.Linear, nn.MultiheadAttention)
    return [module for module in model.modules() if isinstance(module, kinds) and module not in inside]


def format_table(count: ModelCount) -> str:
    """Text table: every layer, the remaining modules by kind, the totals."""
    rows = [("layer", "kind", "precision", "calls", "FLOPs", "BOPs", "bytes trained", "bytes packed")]
    for layer in count.layers:
        rows.append((layer.name, layer.kind, layer.precision, str(layer.calls), *_numbers(layer)))
    kinds: dict[str, list[LayerCount]] = {}
    for other in count.others:
        kinds.setdefault(other.kind, []).append(other)
    for kind, group in kinds.items():
        rows.append((f"({len(group)} x {kind})", kind, "real", "", *_numbers(ModelCount((), tuple(group)))))
    rows.append(("total", "", "", "", *_numbers(count)))

    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule = "-" * len(lines[0])
    ratio = count.bytes_trained / count.bytes_packed if count.bytes_packed else math.nan
    binary = sum(layer.precision == "W1A1" for layer in count.layers)
    totals = [
        f"1-bit layers (W1A1): {binary} of {len(count.layers)}",
        f"FLOPs (multiply-accumulates with a real-valued side): {count.flops:,}",
        f"BOPs (multiply-accumulates with both sides 1-bit):    {count.bops:,}",
        f"OPs = FLOPs + BOPs / 64:                              {count.ops:,.0f}",
        f"bytes: {count.bytes_trained:,} as trained, {count.bytes_packed:,} packed ({ratio:.1f}x smaller)",
    ]
    idle = [layer.name for layer in count.layers if not layer.calls]
    if idle:
        totals.append(f"not called in this run, so without operations: {', '.join(idle)}")
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], "", *totals])


def _numbers(count: LayerCount | ModelCount) -> tuple[str, str, str, str]:
    return f"{count.flops:,}", f"{count.bops:,}", f"{count.bytes_trained:,}", f"{count.bytes_packed:,}"


def _macs(module: nn.Module, x: Tensor, y: Tensor) -> int:
    """Multiply-accumulates of one call; products with padding count, as in the usual counters."""
    if isinstance(module, nn.Linear):
        return y.numel() * module.in_features
    assert isinstance(module, _ConvNd)
    taps = math.prod(module.kernel_size)
    if isinstance(module, _ConvTransposeNd):  # each input value is spread over the kernel
        return x.numel() * taps * module.out_channels // module.groups
    return y.numel() * taps * module.in_channels // module.groups


def _attention_macs(
    attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> int:
    """Multiply-accumulates of the four projections."""
    width = attention.embed_dim
    outer = 2 * query.numel() * width  # of queries and outputs
    return outer + (key.numel() + value.numel()) * width


def _precision(module: nn.Module) -> str:
    if not isinstance(module, BinaryLayer) or not (module.binarizes_weight or module.binarizes_input):
        return "real"
    return f"W{1 if module.binarizes_weight else 32}A{1 if module.binarizes_input else 32}"


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers that the module itself holds."""
    yield from module.named_parameters(recurse=False)
    for name, buffer in module.named_buffers(recurse=False):
        if name not in module._non_persistent_buffers_set:
            yield name, buffer


def _bytes(module: nn.Module, seen: set[int]) -> tuple[int, int]:
    """(trained, packed) bytes of the tensors not in ``seen``, which then holds them too."""
    trained = packed = 0
    packs = isinstance(module, BinaryLayer) and module.binarizes_weight
    for name, tensor in _own_tensors(module):
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        size = tensor.numel() * tensor.element_size()
        trained += size
        if packs and name == "weight":
            channels = tensor.shape[0]
            bits = tensor.numel() // channels
            scale = 0 if getattr(module, "alpha", None) is not None else 4  # alpha is counted as a tensor
            packed += channels * (math.ceil(bits / 8) + scale)
        elif not is_training_only(module, name):
            packed += size
    return trained, packed


def _collect(model: nn.Module, macs: dict[nn.Module, list[int]]) -> ModelCount:
    layers, others = [], []
    seen: set[int] = set()
    for name, module in model.named_modules():
        trained, packed = _bytes(module, seen)
        kind, precision = type(module).__name__, _precision(module)
        if module in macs:
            total, calls = sum(macs[module]), len(macs[module])
            flops, bops = (0, total) if precision == "W1A1" else (total, 0)
            layers.append(LayerCount(name or "(model)", kind, precision, calls, flops, bops, trained, packed))
        elif trained:
            others.append(LayerCount(name or "(model)", kind, "real", 0, 0, 0, trained, packed))
    return ModelCount(tuple(layers), tuple(others))
