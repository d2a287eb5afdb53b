"""Turn a built model into its packed twin: any model with 1-bit layers, from the tensors of a file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from rebnn_mm.convert.kinds import kind_of, names_by_module
from rebnn_mm.deploy.file.container import PackedFile, RebnnFileError
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.layers.int8_linear import LEAST_LINEAR, IntegerLinear, supported
from rebnn_mm.deploy.layers.modules import PackedConv2d, PackedLinear
from rebnn_mm.deploy.layers.packable import check_layer, is_packed, padding_of
from rebnn_mm.deploy.model.weights import Weights, graphs_of
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Epilogue, InputSide
from rebnn_mm.errors import UserError
from rebnn_mm.layers import BinaryLayer, BinaryLinear, InputLayerNorm, ReBNNConv2d, ReBNNLinear
from rebnn_mm.layers.interface import is_training_only


def pack_model(model: nn.Module, file: PackedFile, exact: bool = True) -> nn.Module:
    """Replace the 1-bit layers of ``model`` by packed ones, under their own names, and load all tensors of ``file``.

    Parts that the file holds as graphs are replaced as a whole. The weights of ``model`` may be on the meta device.
    Returns the model (another object if it is itself replaced), in eval mode.

    Raises:
        RebnnFileError: The tensors are not those of this model.
        ValueError: A 1-bit layer that has no packed form; see :func:`check_layer`.
    """
    weights = Weights(file)
    packed: dict[nn.Module, nn.Module] = {}
    for name, record in graphs_of(file).items():
        part, network = _submodule(model, name), weights.at(name).network(record, exact)
        packed[part] = nn.ModuleList([network]) if isinstance(part, nn.ModuleList) else network  # a chain stays a list
    graphs = list(packed.values())
    model = _replaced(model, weights, packed)
    if not exact and supported():
        _put_on_integers(model, weights, packed)
    kinds = (PackedConv2d, PackedLinear, IntegerLinear)
    _load_rest(model, weights, {*graphs, *(new for new in packed.values() if isinstance(new, kinds))})
    weights.check_all_used()
    model.eval()  # not chained: that of mmdet's distillers returns nothing
    return model


def _put_on_integers(model: nn.Module, weights: Weights, done: dict[nn.Module, nn.Module]) -> None:
    """Replace linear layers whose weights the file holds in 8 bits, but those that an attention reads itself."""
    inside = {part for new in done.values() for part in new.modules() if isinstance(new, GraphNetwork)}
    layers: dict[Any, tuple[str, ...]] = dict(names_by_module(model)[0])
    for layer, (first, *others) in layers.items():
        if layer in inside or kind_of(layer) != "Linear" or layer.weight.numel() < LEAST_LINEAR:
            continue
        own = weights.at(first)
        weight = own.eight_bits("weight", *layer.weight.shape)
        if weight is not None:
            bias = None if layer.bias is None else own.real("bias", len(layer.weight))
            done[layer] = IntegerLinear(weight, bias)
            for name in (first, *others):
                parent, _, child = name.rpartition(".")
                model.get_submodule(parent)._modules[child] = done[layer]


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise RebnnFileError(f"the file holds {name!r} as a graph, which the model does not have: {error}") from None


def _replaced(module: nn.Module, weights: Weights, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """What stands in the place of ``module``, itself or its packed twin, its parts replaced likewise.

    ``done`` maps every module to that. One in several places is loaded by its first name, under which the file has it.
    """
    if module not in done:
        twin = _packed_twin(module, weights)
        done[module] = module if twin is None else twin
        if twin is None:
            for name, child in list(module._modules.items()):
                if child is not None:
                    module._modules[name] = _replaced(child, weights.at(name), done)
    return done[module]


def _packed_twin(module: nn.Module, weights: Weights) -> nn.Module | None:
    """The packed form of a layer with 1-bit weights; None for all else."""
    if is_packed(module):
        return _packed_layer(module, weights)
    one_sided = isinstance(module, BinaryLayer) and module.binarizes_weight
    return _with_signs(module) if one_sided and type(module) not in (ReBNNConv2d, ReBNNLinear) else None


def _packed_layer(module: Any, weights: Weights) -> PackedConv2d | PackedLinear:
    check_layer(type(module).__name__, module)
    shape = tuple(module.weight.shape)
    norm, linear = module.input_norm, isinstance(module, BinaryLinear)
    if norm is not None and not isinstance(norm, (_NormBase, *((InputLayerNorm, nn.LayerNorm) if linear else ()))):
        raise UserError(
            f"a {type(module).__name__} has a {type(norm).__name__} as its input_norm, which no packed layer computes: "
            "put it in front of the layer, or export the model as a graph"
        )
    before = InputSide(norm=weights.norm("input_norm", norm.num_features) if isinstance(norm, _NormBase) else None)
    alpha = weights.alpha(shape[0])
    after = Epilogue(alpha, None if module.bias is None else weights.real("bias", shape[0]))
    bits = weights.bits("weight", *shape)
    if linear:
        # depends on the input: no scale and offset
        layer_norm = None if isinstance(norm, _NormBase) else norm
        return PackedLinear(bits, ConvSpec.linear(*shape), before, after, layer_norm, module.shortcut)
    padding, pad = padding_of(module)
    spec = ConvSpec.of(shape, module.stride, padding, module.dilation, module.groups)
    return PackedConv2d(bits, spec, before, after, pad, getattr(module, "shortcut", False))


def _with_signs(module: Any) -> nn.Module:
    """A W1A32 layer of another method as ReBNN's, which keeps sign and scale apart, as a file does; no values yet."""
    check_layer(type(module).__name__, module)
    options: dict[str, Any] = dict(bias=module.bias is not None, weight_only=True, device="meta", dtype=torch.float32)
    if isinstance(module, BinaryLinear):
        twin: Any = ReBNNLinear(module.in_features, module.out_features, **options, shortcut=module.shortcut)
    else:
        shape = (module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding)
        rest = dict(dilation=module.dilation, groups=module.groups, padding_mode=module.padding_mode)
        twin = ReBNNConv2d(*shape, **rest, **options, shortcut=module.shortcut)
    twin.input_norm = module.input_norm
    return twin


def _load_rest(model: nn.Module, weights: Weights, packed: set[nn.Module]) -> None:
    """Give every module outside ``packed`` its tensors from the file; tensors in two places stay shared."""
    inside = {part for module in packed for part in module.modules()}
    loaded: dict[int, Tensor] = {}
    kept = []  # while the old tensors live, no other can have their ids
    for prefix, module in model.named_modules():
        if module in inside:
            continue
        own = weights.at(prefix)
        for name, old in [*module._parameters.items(), *module._buffers.items()]:
            if old is None or name in module._non_persistent_buffers_set:
                continue
            if id(old) not in loaded:
                kept.append(old)
                new = _load(module, name, old, own)
                loaded[id(old)] = nn.Parameter(new, False) if name in module._parameters else new
            setattr(module, name, loaded[id(old)])
        if isinstance(module, BinaryLayer) and module.binarizes_weight:
            # a new layer would take alpha from its weight at the first forward, unless its state dict brings one
            module.load_state_dict(dict(module.named_parameters(recurse=False)), strict=False)
    left = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
    if left:
        raise RebnnFileError(f"{left[0]!r} has no value: the file does not hold it, nor does the model make it")


def _load(module: nn.Module, name: str, old: Tensor, weights: Weights) -> Tensor:
    if is_training_only(module, name):
        return torch.zeros(old.shape, dtype=old.dtype, device="cpu")
    if name == "weight" and isinstance(module, BinaryLayer) and module.binarizes_weight:
        return weights.binary(name, *old.shape)  # W1A32: the layer itself goes on with its binary weight
    if name == "alpha" and isinstance(module, BinaryLayer):
        return weights.alpha(len(old))
    if old.is_floating_point():
        return weights.real(name, *old.shape)
    return weights.integer(name, *old.shape).to(old.dtype)
