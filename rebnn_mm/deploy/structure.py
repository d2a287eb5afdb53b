"""Read a trained network's structure: the record that lets a file run with torch alone."""

from __future__ import annotations

from typing import Any, TypeGuard

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.backbones.blocks import BasicBlock, BinaryUnit
from rebnn_mm.deploy.record import NetworkRecord, ResNetRecord
from rebnn_mm.layers import BinaryConv2d, BinaryLayer, BinaryLinear, ChannelShift, RPReLU


def describe(model: nn.Module) -> NetworkRecord | None:
    """Record of ``model`` if it is a 1-bit ReBNNResNet or mmpretrain's ImageClassifier of one; else None.

    None is no fault: such a model is rebuilt from its config, or by its owner.
    """
    if isinstance(model, ReBNNResNet):
        alone = describe_resnet(model)
        return None if alone is None else NetworkRecord(alone)
    net = getattr(model, "backbone", None)
    if not isinstance(net, ReBNNResNet):
        return None
    backbone = describe_resnet(net)
    fc = getattr(getattr(model, "head", None), "fc", None)
    # by name: this module must not import mmpretrain
    parts = tuple(type(getattr(model, part, None)).__name__ for part in ("neck", "head"))
    if backbone is None or parts != ("GlobalAveragePooling", "LinearClsHead") or type(fc) is not nn.Linear:
        return None
    return NetworkRecord(backbone, fc.out_features, fc.bias is not None)


def describe_resnet(net: ReBNNResNet) -> ResNetRecord | None:
    """Record of a backbone whose units are all plain 1-bit ones and whose norms can be folded; else None."""
    units = [module for module in net.modules() if isinstance(module, BinaryUnit)]
    if not all(_is_plain(unit) for unit in units) or not all(norm.track_running_stats for norm in _norms(net)):
        return None
    block, counts = net.settings[net.depth]
    stem: Any = net.stem[0]
    return ResNetRecord(
        block="basic" if block is BasicBlock else "bottleneck",
        blocks=counts,
        in_channels=stem.in_channels,
        base_channels=stem.out_channels,
        stem="imagenet" if len(net.stem) == 3 else "cifar",
        out_indices=net.out_indices,
    )


def folded_norms(model: nn.Module) -> set[nn.Module]:
    """Batch norms that a file holds as ``scale`` and ``offset``: those around layers that run in one kernel call.

    These are all of a described backbone, and the input norms of layers that are 1-bit on both sides.
    """
    folded: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, ReBNNResNet) and describe_resnet(module) is not None:
            folded.update(_norms(module))
        elif is_packed(module) and isinstance(norm := getattr(module, "input_norm", None), _NormBase):
            folded.add(norm)
    return folded


def is_packed(module: nn.Module) -> TypeGuard[BinaryLayer]:
    """Whether a layer is 1-bit in weight and input, so that the kernels run it."""
    return isinstance(module, BinaryLayer) and module.binarizes_weight and module.binarizes_input


def keeps_forward(layer: nn.Module) -> bool:
    """Whether a layer computes what the packed ones do: sign, 1-bit product, scale, bias, in the base's order."""
    for base in (BinaryConv2d, BinaryLinear):
        if isinstance(layer, base):
            kept = ("forward", "_binary_input", "_scaled_conv", "_scaled_product", "_conv_forward")
            return all(getattr(type(layer), name, None) is getattr(base, name, None) for name in kept)
    return False


def _norms(net: nn.Module) -> list[_BatchNorm]:
    return [module for module in net.modules() if isinstance(module, _BatchNorm)]


def _is_plain(unit: Any) -> bool:
    """Whether the unit has ReActNet's activations, and its convolution is as its block asks for, without options."""
    conv = unit.conv
    if type(unit.shift) is not ChannelShift or type(unit.act) is not RPReLU:
        return False
    if not isinstance(conv, BinaryConv2d) or not keeps_forward(conv):
        return False
    size = conv.kernel_size[0]
    usual = dict(groups=1, padding_mode="zeros", dilation=(1, 1), bias=None, padding=(size // 2, size // 2))
    if any(getattr(conv, key) != value for key, value in usual.items()):
        return False
    return is_packed(conv) and conv.input_norm is None and not getattr(conv, "shortcut", False)
