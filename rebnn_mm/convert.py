"""Make any model 1-bit: which layers, to which, and a report of what was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import nn

from rebnn_mm.errors import UserError
from rebnn_mm.layers.interface import BinaryLayer
from rebnn_mm.weight_readers import uncalled, weight_readers

_REAL: dict[str, type[nn.Module]] = {"Conv2d": nn.Conv2d, "Linear": nn.Linear}
_BINARY = {"Conv2d": "ReBNNConv2d", "Linear": "ReBNNLinear"}
_SHAPE = {
    "Conv2d": ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
    "Linear": ("in_features", "out_features"),
}


@dataclass(frozen=True)
class BinarizeReport:
    """What :func:`binarize` did.

    Attributes:
        replaced: Dotted name of each layer that is 1-bit now -> its description.
        kept: Dotted name of each convolution or linear layer left as it was -> the reason.
    """

    replaced: dict[str, str]
    kept: dict[str, str]

    def __str__(self) -> str:
        lines = [f"binarized {len(self.replaced)} layers, kept {len(self.kept)}"]
        lines += [f"  1-bit  {name}: {what}" for name, what in self.replaced.items()]
        lines += [f"  kept   {name}: {why}" for name, why in self.kept.items()]
        return "\n".join(lines)


def binarize(
    model: nn.Module,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    types: str | type | Sequence[str | type] = ("Conv2d", "Linear"),
    keep_first: bool | None = None,
    keep_last: bool | None = None,
    layer: dict[str, Any] | None = None,
    input_norm: bool = True,
    sample: Any = None,
) -> BinarizeReport:
    """Replace convolutions and linear layers of ``model`` by 1-bit ones, in place.

    Only layers that are exactly ``nn.Conv2d`` or ``nn.Linear`` are replaced; a subclass computes
    something else (a deformable convolution, an attention's projection) and is left alone, as are
    layers that are 1-bit already, layers whose weight another module reads past their forward
    (torchvision's Swin, the fast path of ``nn.TransformerEncoderLayer``), and layers that share their
    weight with one that stays real-valued (an embedding). A new layer takes over the ``weight`` and ``bias`` parameters
    themselves, so values, device, dtype, ``requires_grad`` and weight tying stay, and state-dict
    names only gain ``alpha``, ``gamma`` (and ``input_norm.*``): checkpoints of the real-valued model
    load. Build the optimizer afterwards, else it does not see ``alpha``.

    A pattern is a dotted module name, with ``*``, ``?`` and ``[...]`` as in a shell (``*`` also matches
    dots). It matches that module and all below it: ``'neck'`` is the whole neck, ``'*.cls_convs'``
    every classification tower. A module reached by several names is replaced once, in all places;
    it is included if one of its names is, excluded if one of them is.

    Args:
        model: Any module that contains the layers.
        include: Patterns of what becomes 1-bit; None is everything.
        exclude: Patterns of what stays real-valued; stronger than ``include``.
        types: ``'Conv2d'``, ``'Linear'`` or both; the torch classes do as well.
        keep_first: Keep the model's first convolution or linear layer, in module order, real-valued.
            None is True without ``include``, and False with it: what ``include`` names is converted.
        keep_last: The same for the last one. A detector has several prediction layers: exclude them,
            or name in ``include`` what is to be 1-bit.
        layer: Options of the new layers, as ``dict(activation_only=True)``; with ``type`` another
            layer than ReBNN's, and then ``types`` must be one type.
        input_norm: Give each new layer a batch norm before the sign. Stock networks put a ReLU there,
            all inputs are >= 0 and every sign would be +1. It must be trained: not in a frozen stage,
            nor under ``norm_eval=True``. Set False for inputs around zero, and for linear layers on
            (N, L, C). No effect with ``layer=dict(weight_only=True)``.
        sample: An input of the model (a tuple of arguments, a dict of keyword arguments, or a function that
            is given the model and runs it). The model runs on it once, in evaluation, and layers that this
            does not call are put back. None trusts the source code of the modules, which tells most of them.

    Returns:
        What was replaced and what was kept, which is also logged.

    Raises:
        ValueError: An unknown type; a pattern that matches no layer; nothing to replace.
    """
    include, exclude = _as_tuple(include), _as_tuple(exclude) or ()
    types = _type_names(types, layer)
    names = _names_by_module(model)
    if "" in (name for known in names.values() for name in known):
        raise UserError(f"binarize: the model itself is a {type(model).__name__}; build a 1-bit layer in its place")
    for argument, patterns in (("include", include or ()), ("exclude", exclude)):
        _check_patterns(argument, patterns, names)
    real_ends = _ends(
        list(names),
        include is None if keep_first is None else keep_first,
        include is None if keep_last is None else keep_last,
    )

    options: dict[str, Any] = dict(layer or {})
    if input_norm and not options.get("weight_only"):
        options.setdefault("input_norm", True)
    readers = weight_readers(model)
    reasons = {
        module: real_ends.get(module)
        or _reason_to_keep(module, known, include, exclude, types)
        or _reason_of_reader(known, readers)
        for module, known in names.items()
    }
    _keep_what_shares_real_weights(model, names, reasons)
    new = {module: _binary_twin(module, options) for module, reason in reasons.items() if reason is None}
    for module, twin in new.items():
        _put(model, names[module], twin)
    if sample is not None:
        twins = {names[module][0]: twin for module, twin in new.items()}
        idle = set(twins)
        try:
            idle = uncalled(model, twins, sample)
        finally:  # all of them where the sample does not fit the model
            for module in [module for module in new if names[module][0] in idle]:
                _put(model, names[module], module)
                del new[module]
                reasons[module] = "the model does not call it on the sample"
    report = BinarizeReport(
        {name: _line(twin) for module, twin in new.items() for name in names[module]},
        {name: reason for module, reason in reasons.items() if reason for name in names[module]},
    )
    if not report.replaced:
        raise UserError(
            f"binarize: nothing left to make 1-bit with include={include}, exclude={exclude}, types={types}: "
            + ("; ".join(f"{name} ({why})" for name, why in list(report.kept.items())[:5]) or "the model has no layers")
        )
    print_log(f"{type(model).__name__}: {report}", "current")
    return report


@MODELS.register_module()
def Binarized(base: str | type, binarize: dict[str, Any] | None = None, **cfg: Any) -> nn.Module:
    """Build the model ``base`` from the other keys and make it 1-bit; for use as ``type`` in a config.

    ``model=dict(type='Binarized', base='FasterRCNN', binarize=dict(include=['neck']), backbone=...)``
    is the stock detector: keys (``model.backbone.depth``) and checkpoint names stay where they were.
    Components work likewise: ``rpn_head=dict(type='Binarized', base='RPNHead', binarize=dict(...), ...)``.

    Args:
        base: Registered name; looked up from the current default scope, or as ``'mmdet.RPNHead'``. Or the class.
        binarize: Arguments of :func:`binarize`; None leaves the model real-valued.
        cfg: All other keys, for ``base``.
    """
    model = MODELS.build(dict(type=base, **cfg))
    if binarize is not None:
        _binarize(model, **binarize)
    return model


# the function under another name: in `Binarized` the config key hides it
_binarize = binarize


def _as_tuple(value: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    return (value,) if isinstance(value, str) else tuple(value)


def _type_names(types: str | type | Sequence[str | type], layer: dict[str, Any] | None) -> tuple[str, ...]:
    given = (types,) if isinstance(types, (str, type)) else tuple(types)
    classes = {kind: name for name, kind in _REAL.items()}
    names = tuple(classes.get(kind, str(kind)) if isinstance(kind, type) else kind for kind in given)
    _check_types(names, layer)
    return names


def _check_types(types: tuple[str, ...], layer: dict[str, Any] | None) -> None:
    unknown = [name for name in types if name not in _REAL]
    if unknown or not types:
        raise UserError(f"binarize: types={types}: choose from {tuple(_REAL)}")
    if layer and "type" in layer and len(types) > 1:
        raise UserError(
            f"binarize: layer type {layer['type']!r} cannot stand for all of types={types}; "
            "name one of them, and call binarize once for each"
        )


def _names_by_module(model: nn.Module) -> dict[nn.Module, tuple[str, ...]]:
    """Every convolution and linear layer, in module order, with all names that lead to it."""
    names: dict[nn.Module, tuple[str, ...]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, tuple(_REAL.values())):
            names[module] = (*names.get(module, ()), name)
    return names


def _matches(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[: i + 1]), pattern) for i in range(len(parts)))


def _matches_any(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(_matches(name, pattern) for name in names for pattern in patterns)


def _check_patterns(argument: str, patterns: Sequence[str], names: dict[nn.Module, tuple[str, ...]]) -> None:
    layers = [name for known in names.values() for name in known]
    idle = [pattern for pattern in patterns if not _matches_any(layers, [pattern])]
    if idle:
        shown = ", ".join(layers[:8]) + (", ..." if len(layers) > 8 else "")
        raise UserError(
            f"binarize: {argument} patterns {idle} match no convolution or linear layer. "
            f"The model's {len(layers)} layers are {shown or 'none'}; write '*.conv1' for every conv1"
        )


def _ends(modules: list[nn.Module], first: bool, last: bool) -> dict[nn.Module, str]:
    kept: dict[nn.Module, str] = {}
    if modules and last:
        kept[modules[-1]] = "last layer (keep_last)"
    if modules and first:
        kept[modules[0]] = "first layer (keep_first)"
    return kept


def _reason_to_keep(
    module: nn.Module,
    names: tuple[str, ...],
    include: tuple[str, ...] | None,
    exclude: tuple[str, ...],
    types: tuple[str, ...],
) -> str | None:
    if isinstance(module, BinaryLayer):
        return "1-bit already"
    kind = type(module).__name__
    if type(module) not in _REAL.values():
        return f"{type(module).__module__}.{kind} is a subclass"
    if _matches_any(names, exclude):
        return "excluded"
    if include is not None and not _matches_any(names, include):
        return "not included"
    if kind not in types:
        return f"{kind} is not among types"
    if module._forward_pre_hooks or module._forward_hooks:
        return "has forward hooks (weight norm, pruning?), which a new layer would lose"
    return None


def _reason_of_reader(names: tuple[str, ...], readers: dict[str, str]) -> str | None:
    reader = next((readers[name] for name in names if name in readers), None)
    return reader and f"{reader} reads its weight itself, past the layer's forward"


def _keep_what_shares_real_weights(
    model: nn.Module, names: dict[nn.Module, tuple[str, ...]], reasons: dict[nn.Module, str | None]
) -> None:
    """Set the reason of each layer whose weight a module that stays real-valued holds as well."""
    holders: dict[int, list[tuple[nn.Module, str]]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            holders.setdefault(id(parameter), []).append((module, name))
    # layers that share one weight are judged alike, so one pass suffices
    for module, reason in list(reasons.items()):
        if reason is None:
            others = holders.get(id(module.weight), [])
            kept = [(o, name) for o, name in others if not isinstance(o, BinaryLayer) and reasons.get(o, "no layer")]
            real = next((name for _, name in kept), None)
            if real is not None:
                reasons[module] = f"shares its weight with {real or 'the model itself'}, which stays real-valued"


def _put(model: nn.Module, names: Sequence[str], module: nn.Module) -> None:
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)


def _line(layer: nn.Module) -> str:
    return repr(layer).split("\n")[0].rstrip("(")


def _binary_twin(module: nn.Module, options: dict[str, Any]) -> nn.Module:
    """A 1-bit layer with the shape, the parameters and the modes of ``module``."""
    kind = type(module).__name__
    shape = {key: getattr(module, key) for key in _SHAPE[kind]}
    weight, bias = module.weight, module.bias
    cfg = dict(type=_BINARY[kind], bias=bias is not None, device=weight.device, dtype=weight.dtype)
    new: Any = MODELS.build({**cfg, **shape, **options})
    new.weight = weight
    new.bias = bias
    if getattr(new, "alpha", None) is not None:
        new.reset_alpha()
        new.alpha.requires_grad_(weight.requires_grad)
    return new.to(weight.device, weight.dtype).train(module.training)
