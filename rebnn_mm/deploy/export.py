"""From a trained model to a ``.rebnn`` file, checked against the model before it is there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm import __version__
from rebnn_mm.deploy.card import ModelCard
from rebnn_mm.deploy.format import BinaryTensor, write_file
from rebnn_mm.deploy.ops import fold_batch_norm
from rebnn_mm.deploy.pack import check_layer, scale_shape
from rebnn_mm.deploy.packing import pack_signs
from rebnn_mm.deploy.report import ExportReport, size_report
from rebnn_mm.deploy.runtime import PackedClassifier, load_model
from rebnn_mm.deploy.structure import describe, folded_norms
from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import atomic_path
from rebnn_mm.layers import BinaryLayer, binary_layers
from rebnn_mm.layers.interface import is_training_only

Forward = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True)
class Check:
    """How the packed model is compared with the trained one.

    Attributes:
        inputs: What ``forward`` takes, one at a time; use several shapes.
        forward: Runs the trained or the packed model; returns tensors, also in lists or dicts; default ``model(x)``.
        load: Reads a file; default: :func:`load_model`, into a copy of the trained model if need be.
    """

    inputs: Sequence[Any]
    forward: Forward | None = None
    load: Callable[[Path], nn.Module] | None = None


def export_model(
    model: nn.Module,
    path: str | Path,
    card: ModelCard | None = None,
    check: Check | None = None,
    float16: bool = False,
) -> ExportReport:
    """Write ``model``, with one bit for each binary weight, to ``path``.

    The file appears only when it is complete and, with ``check``, when the packed model gives the trained
    model's outputs bit for bit. ``model`` is not changed.

    Args:
        model: A trained model with 1-bit layers, of any method: :class:`BinaryConv2d` or :class:`BinaryLinear`.
        path: Usually ``*.rebnn``; an existing file is replaced.
        card: Config, class names, preprocessing and origin to be stored.
        check: Inputs to compare on; None compares nothing.
        float16: Store the weights of real-valued convolutions, linear layers and embeddings in 16 bits. Norms, alpha,
            shifts and slopes stay in 32: they are small, and variances would over- or underflow. The
            packed model then equals the model with rounded weights; the report states the difference.

    Raises:
        ValueError: No 1-bit layer; a layer or a type that a file cannot hold; a weight beyond float16; a packed
            model that differs.
        TypeError: ``card`` holds something else than plain values.
    """
    if not binary_layers(model):
        raise UserError(
            f"{type(model).__name__} has no layer with 1-bit weights: there is nothing to pack; train with conv_cfg="
            "dict(type='ReBNNConv2d'), or make it 1-bit with rebnn_mm.convert.binarize"
        )
    trained = copy.deepcopy(model).cpu().eval()
    rounded = _round_real_weights(copy.deepcopy(trained)) if float16 else trained
    tensors = collect_tensors(rounded, float16)
    record = describe(trained)
    info: dict[str, Any] = dict(
        producer=f"rebnn_mm {__version__}",
        network=record and record.plain(),
        **(card or ModelCard()).plain(),
        float16=_float16_error(trained, rounded, check) if float16 else None,
    )
    with atomic_path(path) as temporary:
        size = write_file(temporary, info, tensors)
        if check is not None:
            _compare(rounded, temporary, check)
    return size_report(rounded, tensors, size, info["float16"], checked=0 if check is None else len(check.inputs))


def collect_tensors(model: nn.Module, float16: bool = False) -> dict[str, Tensor | BinaryTensor]:
    """All tensors that inference needs, by their first name in the model.

    Binary weights are packed and their scales named ``alpha``, whatever the method; batch norms around packed
    layers are folded to ``scale`` and ``offset``.

    Raises:
        ValueError: A layer or a type of tensor that a file cannot hold.
    """
    binary = binary_layers(model)
    for name, layer in binary.items():
        check_layer(name, layer)
    tensors: dict[str, Tensor | BinaryTensor] = {}
    seen: set[int] = set()
    folded = folded_norms(model)
    for prefix, module in model.named_modules():
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
                tensors[full] = BinaryTensor(pack_signs(binary[prefix].binary_weight()), tuple(tensor.shape))
            elif float16 and _is_real_weight(module, name):
                tensors[full] = tensor.detach().half()
            else:
                tensors[full] = tensor.detach()
            if tensor.dtype == torch.float64:
                raise UserError(f"{full} is float64: call model.float() first, the run-time computes in float32")
        if prefix in binary:
            tensors[f"{prefix}.alpha" if prefix else "alpha"] = _scale(binary[prefix])
    return tensors


def _scale(layer: BinaryLayer) -> Tensor:
    """(C_out, 1, ...): the layer's scale; 1, which changes no bit, where it has none."""
    scale = layer.scale()
    return torch.ones(scale_shape(layer)) if scale is None else scale


def _is_real_weight(module: nn.Module, name: str) -> bool:
    binary = isinstance(module, BinaryLayer) and module.binarizes_weight
    kinds = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding)
    return name == "weight" and isinstance(module, kinds) and not binary


def _round_real_weights(model: nn.Module) -> nn.Module:
    """Round in place what :func:`collect_tensors` stores in 16 bits."""
    for name, module in model.named_modules():
        if _is_real_weight(module, "weight"):
            weight = module.weight.data
            if weight.abs().max() > torch.finfo(torch.float16).max:
                raise UserError(f"{name}.weight reaches {weight.abs().max():.3g}, beyond float16: export in float32")
            weight.copy_(weight.half())
    return model


def _float16_error(trained: nn.Module, rounded: nn.Module, check: Check | None) -> dict[str, float | None]:
    """Largest change that rounding makes, relative to the largest value, of any weight and of the outputs."""
    weights = zip(trained.state_dict().values(), rounded.state_dict().values(), strict=True)
    worst = max(_relative(a, b) for a, b in weights if a.is_floating_point())
    if check is None:
        return dict(weights=worst, outputs=None)
    pairs = []
    for x in check.inputs:
        a, b = _run(trained, x, check), _run(rounded, x, check)
        pairs += [_relative(u, v) for u, v in zip(a, b, strict=True) if u.shape == v.shape and u.numel()]
    return dict(weights=worst, outputs=max(pairs))


def _relative(a: Tensor, b: Tensor) -> float:
    scale = a.abs().max() if a.numel() else torch.zeros(())
    return float((a - b).abs().max() / scale) if scale > 0 else 0.0


def _compare(trained: nn.Module, path: Path, check: Check) -> None:
    """Raise ValueError unless the file's model gives the outputs of ``trained``, bit for bit."""
    packed = check.load(path) if check.load else _load_beside(trained, path)
    for index, x in enumerate(check.inputs):
        expected, found = _run(trained, x, check), _run(packed, x, check)
        if len(expected) != len(found):
            raise UserError(f"input {index}: {len(found)} output tensors, the trained model gives {len(expected)}")
        for number, (a, b) in enumerate(zip(expected, found, strict=True)):
            if not torch.equal(a, b):
                gap = f"by up to {(a - b).abs().max():.3g}" if a.shape == b.shape else f"{b.shape} for {a.shape}"
                raise UserError(
                    f"the packed model differs from the trained one: input {index}, output {number}, {gap}. No file "
                    "was written. Was a layer changed after training, or does a subclass compute something of its own? "
                    "Set REBNN_MM_ISA=torch to see whether it is the kernel"
                )


def _load_beside(trained: nn.Module, path: Path) -> nn.Module:
    if describe(trained) is not None:
        return load_model(path)
    return load_model(path, model=copy.deepcopy(trained))


def _run(model: nn.Module, x: Any, check: Check) -> list[Tensor]:
    with torch.no_grad():
        if check.forward is not None:
            return _flatten(check.forward(model, x))
        return _flatten(model.logits(x) if isinstance(model, PackedClassifier) else model(x))


def _flatten(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if not isinstance(outputs, (list, tuple)):
        raise TypeError(f"the model returns a {type(outputs).__name__}: let Check.forward return tensors")
    return [tensor for part in outputs for tensor in _flatten(part)]
