"""The packed twin of :class:`rebnn_mm.backbones.ReBNNResNet`, from a file's record and tensors.

Every 1-bit unit (shift, sign, convolution, norm, shortcut, RPReLU) is one kernel call, and maps stay in
channels-last memory from the stem on.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from rebnn_mm.deploy.modules import Around, ConvShape, PackedConv2d
from rebnn_mm.deploy.real import NHWC, FoldedNorm, PooledStem, RealConv2d
from rebnn_mm.deploy.record import EXPANSIONS, ResNetRecord
from rebnn_mm.deploy.weights import Weights


class PackedResNet(nn.Module):
    """(N, in_channels, H, W) float -> a tuple of contiguous maps, as the trained backbone in eval mode gives them.

    Args:
        record: Its structure.
        weights: Its tensors.
        exact: Give the trained network's bits; False lets real-valued convolutions always take the faster
            memory layout (differences of some 1e-6 before a sign may turn that sign), and returns maps in
            channels-last memory.

    Raises:
        RebnnFileError: The tensors do not fit the record.
    """

    def __init__(self, record: ResNetRecord, weights: Weights, exact: bool = True) -> None:
        super().__init__()
        self.out_indices = record.out_indices
        self.exact = exact
        self.stem = _stem(record, weights, exact)
        block = _Basic if record.block == "basic" else _Bottleneck
        channels = record.base_channels
        for stage, count in enumerate(record.blocks):
            planes = record.base_channels * 2**stage
            blocks = []
            for index in range(count):
                own = weights.at(f"layer{stage + 1}.{index}")
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(own, channels, planes, stride, exact))
                channels = planes * EXPANSIONS[record.block]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image batch -> maps of the stages in ``out_indices``."""
        x = self.stem(x)
        maps = []
        for index in range(max(self.out_indices) + 1):
            x = getattr(self, f"layer{index + 1}")(x)
            if index in self.out_indices:
                # what follows in a trained network has contiguous inputs, and real-valued layers may give
                # other bits for another layout
                maps.append(x.contiguous() if self.exact else x)
        return tuple(maps)


class _Basic(nn.Module):
    def __init__(self, weights: Weights, in_channels: int, planes: int, stride: int, exact: bool) -> None:
        super().__init__()
        self.unit = _unit(weights.at("unit"), in_channels, planes, 3, stride)
        self.downsample = _downsample(weights.at("downsample"), in_channels, planes, stride, exact)

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x, self.downsample(x))


class _Bottleneck(nn.Module):
    def __init__(self, weights: Weights, in_channels: int, planes: int, stride: int, exact: bool) -> None:
        super().__init__()
        self.planes = planes
        self.reduce = _unit(weights.at("reduce"), in_channels, planes, 1, 1)
        self.spatial = _unit(weights.at("spatial"), planes, planes, 3, stride)
        self.expand = _unit(weights.at("expand"), planes, 4 * planes, 1, 1)
        self.pool = _Pool(stride) if stride > 1 else nn.Identity()
        self.downsample = _downsample(weights.at("downsample"), in_channels, 4 * planes, stride, exact)

    def forward(self, x: Tensor) -> Tensor:
        y = self.reduce(x, _group_mean(x, self.planes))
        y = self.spatial(y, self.pool(y))
        return self.expand(y, self.downsample(x))


class _Pool(nn.Module):
    """Average pool that rounds sizes up, as the trained downsampling does."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return avg_pool2d(x, self.stride, self.stride, ceil_mode=True)


def _group_mean(x: Tensor, planes: int) -> Tensor:
    """Mean over groups of channels, (N, C, H, W) -> (N, planes, H, W).

    In contiguous memory, as it is trained: over channels-last memory torch adds in another order.
    """
    return x.contiguous().unflatten(1, (planes, -1)).mean(dim=2).contiguous(memory_format=NHWC)


def _unit(weights: Weights, in_channels: int, out_channels: int, kernel: int, stride: int) -> PackedConv2d:
    shape = (out_channels, in_channels, kernel, kernel)
    around = Around(
        shift=weights.real("shift.shift", in_channels),
        norm=weights.norm("norm", out_channels),
        rprelu=(
            weights.real("act.before.shift", out_channels),
            weights.real("act.prelu.weight", out_channels),
            weights.real("act.after.shift", out_channels),
        ),
    )
    alpha = weights.real("conv.alpha", out_channels, 1, 1, 1).flatten()
    pad = kernel // 2
    return PackedConv2d(
        weights.bits("conv.weight", *shape), alpha, ConvShape(shape, (stride, stride), (pad, pad)), around
    )


def _downsample(weights: Weights, in_channels: int, out_channels: int, stride: int, exact: bool) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    pool = [_Pool(stride)] if stride > 1 else []
    weight = weights.real(f"{len(pool)}.weight", out_channels, in_channels, 1, 1)
    norm = FoldedNorm(*weights.norm(str(len(pool) + 1), out_channels))
    return nn.Sequential(*pool, RealConv2d(weight, exact=exact), norm)


def _stem(record: ResNetRecord, weights: Weights, exact: bool) -> nn.Module:
    channels = record.base_channels
    size = 7 if record.stem == "imagenet" else 3
    weight = weights.real("stem.0.weight", channels, record.in_channels, size, size)
    scale, offset = weights.norm("stem.1", channels)
    if record.stem == "imagenet":
        return PooledStem(weight, scale, offset, exact)
    return nn.Sequential(RealConv2d(weight, padding=1, exact=exact), FoldedNorm(scale, offset))
