"""From a trained model to a ``.rebnn`` file, checked against the model before it is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from rebnn_mm import __version__
from rebnn_mm.checks import check_module
from rebnn_mm.copying import copy_model
from rebnn_mm.deploy.file.card import ModelCard
from rebnn_mm.deploy.file.container import write_file
from rebnn_mm.deploy.file.tensors import BinaryTensor, Stored, stored_type
from rebnn_mm.deploy.graph.parts import Part, StoredPart, called_with, joined, put_part, store_part
from rebnn_mm.deploy.layers.operators import fold_batch_norm
from rebnn_mm.deploy.layers.packable import check_alone, check_layer, is_packed
from rebnn_mm.deploy.load import load_model
from rebnn_mm.deploy.operation.bits import to_bits
from rebnn_mm.deploy.report import ExportReport, size_report
from rebnn_mm.deploy.rounding import Rounding
from rebnn_mm.deploy.verify import Check, Difference, compare
from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import atomic_path
from rebnn_mm.layers import BinaryLayer, binary_layers
from rebnn_mm.layers.interface import is_training_only
from rebnn_mm.progress import step


def export_model(
    model: nn.Module,
    path: str | Path,
    card: ModelCard | None = None,
    check: Check | None = None,
    float16: bool = False,
    parts: Sequence[Part] | None = None,
    int8: bool = False,
) -> ExportReport:
    """Write ``model``, with one bit for each binary weight, to ``path``.

    The file appears only when it is complete and, with ``check``, when the packed model is the trained one: in the
    outputs' bits, or as :mod:`rebnn_mm.deploy.verify` says. ``model`` is not changed.

    Args:
        model: A trained model with 1-bit layers, of any method: :class:`BinaryConv2d` or :class:`BinaryLinear`.
        path: Usually ``*.rebnn``; an existing file is replaced.
        card: Config, class names, preprocessing and origin to be stored.
        check: Inputs to compare on; None compares nothing.
        float16: Store the weights of real-valued convolutions, linear layers and embeddings in 16 bits. Norms, alpha,
            shifts and slopes stay in 32: they are small, and variances would over- or underflow. The
            packed model then equals the model with rounded weights; the report states the difference.
        parts: What to store as graphs, which run fused and with torch alone. None is the whole model where it can be
            called with the first input of ``check``, or with images if it starts with a convolution. What cannot be
            captured is packed layer by layer, and the report says why.
        int8: Store those weights in 8 bits instead, with one scale for each output channel or row; those of fewer than
            1024 values stay in 32 bits. As with ``float16``, the packed model equals the model with rounded weights.

    Raises:
        ValueError: No 1-bit layer; a layer or a type that a file cannot hold; a weight beyond float16; a packed
            model that differs; two ways to round, or rounding to 8 bits where ``check`` demands the trained bits.
        TypeError: ``model`` is no module; ``card`` holds something else than plain values.
    """
    check_module("export_model", model)
    if not binary_layers(model):
        raise UserError(
            f"{type(model).__name__} has no layer with 1-bit weights: there is nothing to pack; train with conv_cfg="
            "dict(type='ReBNNConv2d'), or make it 1-bit with rebnn_mm.convert.binarize"
        )
    step("copying the trained model")
    rounding = _rounding(float16, int8, check)
    trained = copy_model(model)
    rounded = copy_model(trained) if rounding.kind else trained
    rounding.apply(rounded)
    card = card or ModelCard()
    stored, reasons = _store(rounded, _whole(rounded, card, check) if parts is None else parts)
    tensors = collect_tensors(rounded, [part.name for part in stored])
    for part in stored:
        prefix = f"{part.name}." if part.name else ""
        tensors |= {prefix + name: tensor for name, tensor in part.tensors.items()}
    tensors = {name: rounding.stored(name, tensor) for name, tensor in tensors.items()}
    shared = _take_repeated(tensors)
    change = rounding.change(trained, rounded, check, tensors)
    whole = next((part for part in stored if part.whole), None)
    info: dict[str, Any] = dict(
        producer=f"rebnn_mm {__version__}",
        **card.plain(),
        graphs={part.name: part.record for part in stored},
        float16=change if float16 else None,
        shared=shared,
    )
    if int8:
        info["int8"] = change
    if whole is not None:
        info["whole"] = dict(part=whole.name, kind=whole.whole)
    differences: tuple[Difference, ...] = ()
    with atomic_path(path) as temporary:
        step("writing the file")
        size = write_file(temporary, info, tensors)
        if check is not None:
            differences = _compare(rounded, [part.name for part in stored], temporary, check, whole is not None)
    checked = 0 if check is None else len(check.inputs)
    notes = (*map(str, stored), *(f"{name or 'the model'} is packed layer by layer: {why}" for name, why in reasons))
    return size_report(rounded, tensors, size, (rounding.kind, change), checked, differences, notes, shared)


def _rounding(float16: bool, int8: bool, check: Check | None) -> Rounding:
    if float16 and int8:
        raise UserError("float16 and int8 (--fp16 and --int8) are two ways to store the same weights: choose one")
    if int8 and check is not None and check.exact:
        raise UserError(
            "exact=True (--exact) demands the trained model's bits, and int8 (--int8) rounds its weights, which "
            "changes them: leave one of them out. The report states by how much outputs change"
        )
    return Rounding("float16" if float16 else "int8" if int8 else None)


def _whole(model: nn.Module, card: ModelCard, check: Check | None) -> list[Part]:
    """The whole model as a part, if an input for it is known."""
    if check is not None and check.forward is not None:
        return []  # how to call it is not known
    given = _guessed_images(model) if check is None else check.inputs[0]
    if given is None:
        return []
    call = called_with((given,), {})
    if call is None:
        return [Part("", [], refused=f"it is called with a {type(given).__name__}, and a graph takes tensors in order")]
    tensors = list(call.inputs)
    if all(x.shape[:1] == (1,) for x in tensors):
        tensors = [torch.cat([x, x]) for x in tensors]
    with torch.no_grad():
        try:
            y = call(model, *(x.clone() for x in tensors))  # it may write into them
        except Exception as error:  # a guess that does not fit this model: it says so by itself, in any way
            if check is None:
                return []
            raise error
    single = isinstance(given, Tensor)
    images_to_scores = single and given.dim() == 4 and isinstance(y, Tensor) and y.dim() == 2
    described = card.preprocessing or card.classes or (hasattr(model, "backbone") and hasattr(model, "head"))
    whole = "classifier" if images_to_scores and described else "network"
    return [Part("", tensors, None if single else call, whole=whole)]


def _guessed_images(model: nn.Module) -> Tensor | None:
    first = next((m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))), None)
    if not isinstance(first, nn.Conv2d):
        return None
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, first.in_channels, 64, 64, generator=generator, dtype=torch.float32, device="cpu")


def _store(model: nn.Module, parts: Sequence[Part]) -> tuple[list[StoredPart], list[tuple[str, str]]]:
    """The parts that can be stored as graphs, and (name, reason) of the others."""
    stored, reasons = [], []
    left = list(parts)
    while left:
        part = left.pop(0)
        step(f"capturing {part.name or 'the model'} as a graph")
        try:
            stored.append(store_part(model, part))
        except UserError as error:
            reasons.append((part.name, str(error)))
            left += part.within() if part.within is not None else ()
    return stored, reasons


def _take_repeated(tensors: dict[str, Stored]) -> dict[str, str]:
    """Take out 1-bit weights that are there already, as of convolutions in several graphs; name -> the name kept."""
    first: dict[Any, str] = {}
    shared = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, BinaryTensor):
            kept = first.setdefault((tensor.shape, tensor.bits.numpy().tobytes()), name)
            if kept != name:
                shared[name] = kept
    for name in shared:
        del tensors[name]
    return shared


def collect_tensors(model: nn.Module, without: Sequence[str] = ()) -> dict[str, Stored]:
    """All tensors that inference needs, by their first name in the model, but those of the modules ``without``.

    Binary weights are packed and their scales named ``alpha``, whatever the method; batch norms around packed
    layers are folded to ``scale`` and ``offset``.

    Raises:
        ValueError: A layer or a type of tensor that a file cannot hold.
    """
    binary = binary_layers(model)
    for name, layer in binary.items():
        check_layer(name, layer)
    tensors: dict[str, Stored] = {}
    seen: set[int] = set()
    folded = _folded_norms(model)
    outside = list(_outside(model, without))
    binary = {name: layer for name, layer in outside if isinstance(layer, BinaryLayer) and layer.binarizes_weight}
    for name, layer in binary.items():
        check_alone(name, layer)
    for prefix, module in outside:
        if module in folded:
            tensors[f"{prefix}.scale"], tensors[f"{prefix}.offset"] = fold_batch_norm(module)
            continue
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            skip = is_training_only(module, name) or name in module._non_persistent_buffers_set
            skip |= name == "alpha" and prefix in binary  # below, with the scales that are not parameters
            if tensor is None or skip or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            full = f"{prefix}.{name}" if prefix else name
            if name == "weight" and prefix in binary:
                tensors[full] = BinaryTensor(to_bits(binary[prefix].binary_weight()), tuple(tensor.shape))
            else:
                tensors[full] = tensor.detach().to(stored_type(tensor.dtype))
            if tensor.dtype == torch.float64:
                raise UserError(f"{full} is float64: call model.float() first, the run-time computes in float32")
        if prefix in binary:
            tensors[f"{prefix}.alpha" if prefix else "alpha"] = _scale(binary[prefix])
    return tensors


def _outside(model: nn.Module, without: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Each module that has a name outside those of ``without``, with its first one."""
    seen: set[nn.Module] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        inside = any(not part or f"{name}.".startswith(f"{part}.") for part in without)
        if not inside and module not in seen:
            seen.add(module)
            yield name, module


def _scale(layer: BinaryLayer) -> Tensor:
    """(C_out,): the layer's scale; 1, which changes no bit, where it has none."""
    scale = layer.scale()
    return torch.ones(len(layer.weight), dtype=torch.float32, device="cpu") if scale is None else scale.flatten()


def _compare(trained: nn.Module, parts: Sequence[str], path: Path, check: Check, whole: bool) -> tuple[Difference, ...]:
    """The outputs in which the file's model differs from ``trained``; raises UserError if it may not."""
    step("loading the file")
    if check.load:
        packed = check.load(path)
    else:
        packed = load_model(path) if whole else load_model(path, model=copy_model(trained))
    chains = [name for name in parts if isinstance(trained.get_submodule(name), nn.ModuleList)]
    trained = copy_model(trained) if chains else trained
    for name in chains:  # as one module each, as the packed model has them
        put_part(trained, name, joined(trained.get_submodule(name)))
    return compare(trained, packed, check, check.exact)


def _folded_norms(model: nn.Module) -> set[nn.Module]:
    """Batch norms that a file holds as ``scale`` and ``offset``: those in front of the sign of a layer."""
    norms = {getattr(module, "input_norm", None) for module in model.modules() if is_packed(module)}
    return {norm for norm in norms if isinstance(norm, _NormBase)}
