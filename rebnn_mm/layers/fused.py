"""When a 1-bit layer runs as one autograd function, and with what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import has_torch_function
from torch.utils._python_dispatch import _get_current_dispatch_mode

from rebnn_mm.estimators import straight_sign
from rebnn_mm.layers.function import Operation, binary_product
from rebnn_mm.layers.weight_sign import WeightSign

# what a class has to leave as it is, so that the function computes the same
_KEPT = ("forward", "_binary_input", "_scaled_conv", "_scaled_product", "_conv_forward")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_composed = 0


@contextmanager
def composed() -> Iterator[None]:
    """Within the block, 1-bit layers are composed of torch's operations: slower, and with a second derivative."""
    global _composed
    _composed += 1
    try:
        yield
    finally:
        _composed -= 1


def computes_as(kind: Any, base: Any) -> bool:
    """Whether a layer's class computes what ``base`` does: sign, 1-bit product, scale, bias, in this order."""
    return all(getattr(kind, name, None) is getattr(base, name, None) for name in _KEPT)


def is_plain(x: Any) -> bool:
    """Whether ``x`` is a tensor with values that nothing follows: no compiler, tracer, transform or mode."""
    return not (
        torch.compiler.is_compiling()
        or type(x) not in (Tensor, nn.Parameter)
        or has_torch_function((x,))
        or x.is_meta
        or x.layout is not torch.strided
        or torch.jit.is_tracing()
        or _get_current_dispatch_mode() is not None
        or torch._C._are_functorch_transforms_active()
    )


def is_watched(module: nn.Module) -> bool:
    """Whether a module has hooks, or a ``forward`` that is not its class's: then it has to be called."""
    return "forward" in vars(module) or any(getattr(module, hooks) for hooks in _HOOKS)


def _has_slope(kind: Any) -> bool:
    """Whether an estimator's class is a sign with a ``slope``: not a subclass with another ``forward``."""
    described = next((base for base in kind.__mro__ if "slope" in vars(base)), None)
    return described is not None and kind.forward is described.forward


def fuses(layer: Any, x: Any) -> bool:
    """Whether the layer's result for ``x`` may come from the function."""
    if not is_plain(x) or _composed or not (layer.binarizes_weight and layer.binarizes_input):
        return False
    conv = isinstance(layer, nn.Conv2d)
    return (
        computes_as(type(layer), _base_of(type(layer)))
        and x.dim() == (4 if conv else max(x.dim(), 1))
        and _has_slope(type(layer.estimator))
        and not is_watched(layer.estimator)
        and is_plain(layer.weight)
        and _dtype(x, layer.weight) is not None
        and (not conv or _padding(layer) is not None)
    )


def fused(layer: Any, x: Tensor) -> Tensor:
    """The layer's result for ``x``, without its shortcut."""
    if layer.input_norm is not None:
        x = layer.input_norm(x)
    scale, how = scale_and_sign(layer)
    dtype = _dtype(x, layer.weight)
    assert dtype is not None, "fuses() was asked"
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":  # signs of a padded input are the padded signs
        x = nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
    return binary_product(x, how.latent, scale, layer.bias, operation_of(layer, how, dtype))


def operation_of(layer: Any, how: WeightSign, dtype: torch.dtype) -> Operation:
    """What a layer computes with ``dtype``."""
    conv = isinstance(layer, nn.Conv2d)
    geometry = (layer.stride, _padding(layer), layer.dilation, layer.groups) if conv else None
    return Operation(geometry, layer.estimator.slope(), how.slope(), how.scaled, dtype, layer.keep == "code")


def scale_and_sign(layer: Any) -> tuple[Tensor | None, WeightSign]:
    """The method's scale and binary weight; the scale first, as a learned one may begin here."""
    scale = layer._scale()
    return scale, _weight_sign(layer)


def _weight_sign(layer: Any) -> WeightSign:
    """The method's; where a class has signs of its own, they are what passes the gradient on."""
    if type(layer)._signs is _base_of(type(layer))._signs:
        return layer._weight_sign()
    return WeightSign(layer._signs(), straight_sign)


def _base_of(kind: Any) -> Any:
    """The class of :mod:`rebnn_mm.layers.base` that a layer's class comes from."""
    return next(base for base in kind.__mro__ if base.__module__ == "rebnn_mm.layers.base")


def _dtype(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """What the product is computed in; None where torch itself has to say that types do not fit."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        wide = torch.float64 in (x.dtype, weight.dtype)
        return None if wide or not x.is_floating_point() else torch.get_autocast_dtype(kind)
    return x.dtype if x.dtype == weight.dtype and x.device == weight.device else None


def _padding(conv: nn.Conv2d) -> tuple[int, int] | None:
    """Zeros on each side, (rows, columns), or None: a kernel of even size that keeps the size of its input."""
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    if conv.padding_mode != "zeros":
        return 0, 0
    return (top, left) if left == right and top == bottom else None
