"""Build the 1-bit form of a layer and put it in its places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from rebnn_mm.adaptive_padding import padding_of
from rebnn_mm.convert.kinds import kind_of
from rebnn_mm.errors import UserError
from rebnn_mm.layers.attention import binary_scaled_dot_product_attention, binary_twin
from rebnn_mm.layers.interface import BinaryLayer
from rebnn_mm.layers.window_attention import BinaryWindowAttention, is_window_attention

_BINARY = {"Conv2d": "ReBNNConv2d", "Linear": "ReBNNLinear"}
_SHAPE = {
    "Conv2d": ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
    "Linear": ("in_features", "out_features"),
}


class Options:
    """Options of the new layers by kind: the preset's, then those for all kinds, then those for one.

    Args:
        given: The argument ``layer``; a key ``'Conv2d'`` or ``'Linear'`` holds what is for that kind only.
        preset: Options by kind that ``given`` overrides.
        input_norm: The caller's, for all kinds; None is the preset's, or True.

    Raises:
        ValueError: The options of one kind are no dict.
    """

    def __init__(self, given: dict[str, Any], preset: dict[str, dict[str, Any]], input_norm: bool | str | None) -> None:
        self.of: dict[str, dict[str, Any]] = {}
        common = {key: value for key, value in given.items() if key not in _BINARY}
        for kind in _BINARY:
            own = given.get(kind, {})
            if not isinstance(own, dict):
                raise UserError(f"binarize: layer={{{kind!r}: {own!r}}}: give the options of this kind as a dict")
            options = {**dict(input_norm=True), **preset.get(kind, {})}
            if input_norm is not None:  # a convolution has one kind of norm
                options["input_norm"] = input_norm if kind == "Linear" else bool(input_norm)
            options.update({**common, **own})
            if options.get("weight_only") and not {"input_norm"} & {*common, *own}:
                options["input_norm"] = False
            self.of[kind] = options


def twin_of(module: Any, options: Options, scores: str) -> nn.Module:
    """A 1-bit layer with the shape, the parameters and the modes of ``module``."""
    kind = kind_of(module)
    assert kind is not None
    if is_window_attention(module):
        qkv, proj = (twin_of(layer, options, scores) for layer in (module.qkv, module.proj))
        return BinaryWindowAttention(module, qkv, proj, scores).train(module.training)
    if kind == "MultiheadAttention":
        linear = {**dict(type=_BINARY["Linear"]), **options.of["Linear"]}
        return binary_twin(module, scores, linear)
    shape = {key: getattr(module, key) for key in _SHAPE[kind]}
    if kind == "Conv2d":
        shape["padding"] = padding_of(module)
    weight, bias = module.weight, module.bias
    cfg = dict(type=_BINARY[kind], bias=bias is not None, device=weight.device, dtype=weight.dtype)
    new: Any = MODELS.build({**cfg, **shape, **options.of[kind]})
    new.weight = weight
    new.bias = bias
    if getattr(new, "alpha", None) is not None:
        new.reset_alpha()
        new.alpha.requires_grad_(weight.requires_grad)
    return new.to(weight.device, weight.dtype).train(module.training)


def put(model: nn.Module, names: Sequence[str], module: nn.Module) -> None:
    """Let ``module`` be what all of ``names`` lead to."""
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)


def keep_batches_dense(model: nn.Module) -> None:
    """Let torch's encoders hand 1-bit layers dense batches: with a padding mask they would make ragged ones of them."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(m, BinaryLayer) for m in module.modules()):
            module.enable_nested_tensor = module.use_nested_tensor = False


def set_binary_scores(model: nn.Module) -> None:
    """Let attentions compute on bits that hold their product as an attribute, as MMPretrain's do."""
    for module in model.modules():
        if "scaled_dot_product_attention" in vars(module) and any(
            isinstance(c, BinaryLayer) for c in module.children()
        ):
            module.scaled_dot_product_attention = binary_scaled_dot_product_attention  # type: ignore[assignment]


def refuse_elastic_scores(model: nn.Module) -> None:
    """Refuse attentions that hold their product as an attribute: there is no place for what is learned.

    Raises:
        ValueError: The model has one.
    """
    for name, module in model.named_modules():
        if "scaled_dot_product_attention" in vars(module):
            raise UserError(
                f"binarize: scores='elastic' does not reach {name}, a {type(module).__name__} that multiplies by a "
                "function: choose scores='binary' or 'real'"
            )


def lines(name: str, layer: nn.Module) -> dict[str, str]:
    """Name and description of a new layer, or of the projections in a new attention."""
    if isinstance(layer, BinaryLayer):
        return {name: _line(layer)}
    return {f"{name}.{part}": _line(inner) for part, inner in layer.named_children() if isinstance(inner, BinaryLayer)}


def _line(layer: nn.Module) -> str:
    return repr(layer).split("\n")[0].rstrip("(")
