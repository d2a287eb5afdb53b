"""The rule that makes a model 1-bit."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

from mmengine.logging import print_log
from torch import nn
from torch.nn.modules.conv import _ConvNd

from rebnn_mm.checks import check_dict, check_module
from rebnn_mm.convert.copies import Copies, beside, find_copies, find_teachers, refresh_averages
from rebnn_mm.convert.frozen import FROZEN, settle, unfreeze, warning_of_frozen, warning_of_norm_eval
from rebnn_mm.convert.kinds import Names, check_patterns, names_by_module, type_names
from rebnn_mm.convert.presets import find_preset
from rebnn_mm.convert.reasons import (
    Choice,
    Reasons,
    ends,
    gates,
    keep_what_shares_real_weights,
    reason_of_gate,
    reason_of_reader,
    reason_to_keep,
)
from rebnn_mm.convert.replace import (
    Options,
    keep_batches_dense,
    lines,
    put,
    refuse_elastic_scores,
    set_binary_scores,
    twin_of,
)
from rebnn_mm.convert.report import BinarizeReport, make_report
from rebnn_mm.errors import UserError
from rebnn_mm.layers.attention import SCORES
from rebnn_mm.weight_readers import uncalled, weight_readers


def binarize(
    model: nn.Module,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    types: str | type | Sequence[str | type] = ("Conv2d", "Linear", "MultiheadAttention"),
    keep_first: bool | None = None,
    keep_last: bool | None = None,
    layer: dict[str, Any] | None = None,
    input_norm: bool | str | None = None,
    sample: Any = None,
    preset: str | None = None,
    depthwise: bool = False,
    frozen: str | None = None,
    scores: str = "real",
) -> BinarizeReport:
    """Replace convolutions, linear layers and attentions of ``model`` by 1-bit ones, in place.

    A new layer takes over the ``weight`` and ``bias`` parameters themselves, so values, device, dtype and weight tying
    stay, and state-dict names only gain ``alpha``, ``gamma`` (and ``input_norm.*``): checkpoints of the real-valued
    model load, with ``strict=False`` where norms in front of signs have statistics that they lack. An
    ``nn.MultiheadAttention`` becomes a :class:`rebnn_mm.layers.attention.BinaryMultiheadAttention`, whose projections
    are copies, and which takes checkpoints with the packed one. Build the optimizer afterwards.

    What stays real-valued, besides what the arguments name, is in the report with its reason: subclasses that compute
    something else; layers that are parametrized, have hooks or are frozen; depthwise convolutions; squeeze-and-
    excitation; layers with one output or fewer than four inputs; layers whose weight another module reads past their
    forward, or shares while it stays real-valued. ``docs/binarize.md`` explains each.

    A pattern is a dotted module name, with ``*``, ``?`` and ``[...]`` as in a shell (``*`` also matches
    dots). It matches that module and all below it: ``'neck'`` is the whole neck, ``'*.cls_convs'``
    every classification tower. A module reached by several names is replaced once, in all places;
    it is included if one of its names is, excluded if one of them is.

    Args:
        model: Any module that contains the layers.
        include: Patterns of what becomes 1-bit; None is everything.
        exclude: Patterns of what stays real-valued; stronger than ``include``.
        types: One or some of ``'Conv2d'``, ``'Linear'``, ``'MultiheadAttention'``; the torch classes do as well.
        keep_first: Keep the model's first convolution or linear layer, in module order, real-valued.
            None is True without ``include``, and False with it: what ``include`` names is converted.
        keep_last: The same for the last one. A detector has several prediction layers: exclude them, take
            ``preset='detector'``, or name in ``include`` what is to be 1-bit.
        layer: Options of the new layers, as ``dict(activation_only=True)``; with ``type`` another layer than ReBNN's,
            for ``types`` of one kind. ``dict(Conv2d=dict(...), Linear=dict(...))`` has options for one kind; the
            projections of attentions are linear layers.
        input_norm: Give each new layer a norm before the sign: a convolution normalises its channels, a linear layer
            its last axis. Stock networks put a ReLU there, all inputs are >= 0 and every sign would be +1. ``'layer'``
            normalises each vector of a linear layer by itself. False is for inputs around zero. None is the preset's,
            or True. No effect with ``layer=dict(weight_only=True)``.
        sample: An input of the model (a tuple of arguments, a dict of keyword arguments, or a function that
            is given the model and runs it). The model runs on it, in evaluation; layers that this does not call are
            put back, and the report says how many operations are 1-bit. None trusts the source code of the modules,
            which tells most of the layers that are not called.
        preset: Defaults for a family: ``'classifier'``, ``'detector'`` or ``'transformer'``; see
            :data:`rebnn_mm.convert.PRESETS`. Other arguments go before, ``exclude`` is added to the preset's.
        depthwise: Make depthwise convolutions 1-bit, too.
        frozen: What is done with layers that would not train. ``'keep'``: they stay real-valued, with a warning.
            ``'unfreeze'``: they become 1-bit and train; ``frozen_stages`` and ``norm_eval`` of the model's parts are
            turned off. ``'binarize'``: they become 1-bit as they are. None is the preset's, or ``'keep'``.
        scores: Of attentions that are replaced: ``'real'``, or ``'binary'`` or ``'elastic'`` as in
            :class:`rebnn_mm.layers.attention.Attend`.

    Returns:
        What was replaced and what was kept, which is also logged.

    Raises:
        ValueError: An unknown type, preset or option, or one of another kind; a pattern that matches no layer; nothing
            to replace.
    """
    check_module("binarize", model)
    check_dict("binarize: layer", layer or {}, ", as dict(type='ReActConv2d')")
    defaults = find_preset(preset)
    frozen = defaults.frozen if frozen is None else frozen
    _check_option("frozen", frozen, FROZEN)
    _check_option("scores", scores, SCORES)
    if scores == "elastic":
        refuse_elastic_scores(model)
    options = Options(dict(layer or {}), defaults.layer, input_norm)
    chosen_types = type_names(types, dict(layer or {}))
    layers, attentions = names_by_module(model)
    names = {**layers, **attentions}
    if "" in (name for known in names.values() for name in known):
        raise UserError(f"binarize: the model itself is a {type(model).__name__}; build a 1-bit layer in its place")
    included, excluded = _as_tuple("include", include), _as_tuple("exclude", exclude) or ()
    for argument, patterns in (("include", included or ()), ("exclude", excluded)):
        check_patterns(argument, patterns, names)
    choice = Choice(included, (*excluded, *defaults.patterns()), chosen_types, depthwise, frozen)
    copies, aside = find_copies(model), beside(model)
    teachers = find_teachers(model, copies)
    kept_ends = ends(
        [module for module in layers if module not in aside],
        include is None if keep_first is None else keep_first,
        _keeps_last(include, keep_last, defaults.keep_last),
    )
    kept_ends |= {module: kept_ends[original] for module, original in teachers.items() if original in kept_ends}

    settle(model)
    reasons = _reasons(model, names, choice, kept_ends, copies)
    new = _replace(model, names, reasons, options, scores, copies if frozen == "unfreeze" else None)
    if sample is not None:
        _put_back_uncalled(model, names, reasons, new, sample, copies)
    if scores == "binary":
        set_binary_scores(model)
    if frozen == "unfreeze" and new:
        unfreeze(model, copies)
    refresh_averages(model)
    replaced = {key: line for m, twin in new.items() for name in names[m] for key, line in lines(name, twin).items()}
    kept = {name: reason for module, reason in reasons.items() if reason for name in names[module]}
    kept |= {
        name: f"{type(module).__name__}, for which there is no 1-bit form"
        for name, module in model.named_modules()
        if isinstance(module, _ConvNd) and not isinstance(module, nn.Conv2d)
    }
    if not replaced:
        raise UserError(
            f"binarize: nothing left to make 1-bit with include={included}, exclude={excluded}, types={chosen_types}: "
            + ("; ".join(f"{name} ({why})" for name, why in list(kept.items())[:5]) or "the model has no layers")
        )
    report = make_report(model, replaced, kept, sample)
    print_log(f"{type(model).__name__}: {report}", "current")
    for warning in (warning_of_frozen(kept), warning_of_norm_eval(model, replaced)):
        if warning:
            print_log(warning, "current", logging.WARNING)
    return report


def _as_tuple(option: str, value: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Collection) or not all(isinstance(name, str) for name in value):
        raise UserError(f"binarize: {option}={value!r} must be a name or pattern, or a list of them")
    return tuple(value)


def _keeps_last(include: Any, given: bool | None, preset: bool | None) -> bool:
    if given is not None:
        return given
    return include is None if preset is None else preset


def _check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"binarize: {name}={value!r} is not one of {', '.join(map(repr, allowed))}")


def _reasons(
    model: nn.Module, names: Names, choice: Choice, kept_ends: dict[nn.Module, str], copies: Copies
) -> Reasons:
    """Why each module stays as it is; None for those that become 1-bit."""
    reasons: Reasons = {
        module: kept_ends.get(module) or reason_to_keep(module, known, choice, model) for module, known in names.items()
    }
    chosen = {module for module, reason in reasons.items() if reason is None}
    # torch's encoder layer reads weights only in its fused path, which it leaves where a 1-bit layer is in it
    encoders = {module for module in model.modules() if type(module) is nn.TransformerEncoderLayer}
    readers, inside = weight_readers(model, encoders), gates(model)
    for module in chosen:
        reasons[module] = reason_of_reader(names[module], readers) or reason_of_gate(names[module], inside)
    keep_what_shares_real_weights(model, names, reasons)
    for module, original in copies.items():
        if module in reasons and original in reasons:
            why = reasons[original]
            reasons[module] = why and f"follows {names[original][0]}: {why}"
    return reasons


def _replace(
    model: nn.Module, names: Names, reasons: Reasons, options: Options, scores: str, untrained: Copies | None
) -> dict[nn.Module, nn.Module]:
    """Put the 1-bit layers in; each old one -> the new one. All but ``untrained`` are to train, unless it is None."""
    chosen = [module for module, reason in reasons.items() if reason is None]
    if untrained is not None:
        for module in [module for module in chosen if module not in untrained]:
            module.requires_grad_(True).train(model.training)
    new = {module: twin_of(module, options, scores) for module in chosen}
    for module, twin in new.items():
        put(model, names[module], twin)
    keep_batches_dense(model)
    return new


def _put_back_uncalled(
    model: nn.Module, names: Names, reasons: Reasons, new: dict[nn.Module, nn.Module], sample: Any, copies: Copies
) -> None:
    """Take those out of ``new`` and of the model that the model does not call on ``sample``; copies follow."""
    twins = {names[module][0]: twin for module, twin in new.items()}
    idle = set(twins)
    try:
        idle = uncalled(model, twins, sample)
    finally:  # all of them where the sample does not fit the model
        for module in [module for module in new if names[copies.get(module, module)][0] in idle]:
            put(model, names[module], module)
            del new[module]
            reasons[module] = "the model does not call it on the sample"
