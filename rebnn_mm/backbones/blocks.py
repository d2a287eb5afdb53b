"""Residual blocks around 1-bit convolutions (Bi-Real Net, ECCV 2018; ReActNet, ECCV 2020).

Every block takes its convolution from ``conv_cfg``. The sign belongs to the convolution layer,
so ``conv_cfg=dict(type='Conv2d')`` gives the real-valued twin of the same structure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rebnn_mm.backbones.fused_unit import fused_unit, unit_fuses
from rebnn_mm.checks import check_config
from rebnn_mm.errors import UserError
from rebnn_mm.layers import ChannelShift, RPReLU

Config = dict[str, Any]

# what follows the shortcut, by its word in a config; each takes the number of channels. The classes do as well.
_ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "rprelu": RPReLU,
    "prelu": nn.PReLU,
    "hardtanh": lambda channels: nn.Hardtanh(),
    "none": lambda channels: nn.Identity(),
}
_WORDS: dict[Any, str] = {RPReLU: "rprelu", nn.PReLU: "prelu", nn.Hardtanh: "hardtanh", nn.Identity: "none"}
_NORMS = {"BN": nn.BatchNorm2d, "BN2d": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm}


def build_norm(norm_cfg: Config, channels: int) -> nn.Module:
    """Batch norm from an OpenMMLab ``norm_cfg``; ``requires_grad=False`` freezes its parameters.

    Raises:
        UserError: Another norm.
    """
    check_config("norm_cfg", norm_cfg, "BN")
    options = dict(norm_cfg)
    kind = options.pop("type")
    requires_grad = options.pop("requires_grad", True)
    norm_class = kind if isinstance(kind, type) and issubclass(kind, _BatchNorm) else _NORMS.get(kind)
    if norm_class is None:
        raise UserError(f"norm_cfg type {kind!r}: a 1-bit block takes one of {sorted(_NORMS)}, or a batch norm's class")
    norm = norm_class(channels, **options)
    for parameter in norm.parameters():
        parameter.requires_grad = requires_grad
    return norm


def build_conv(conv_cfg: Config, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> nn.Module:
    """Convolution without bias that keeps the size up to its stride, from an OpenMMLab ``conv_cfg``.

    Raises:
        UserError: A type that is neither registered nor a class.
    """
    check_config("conv_cfg", conv_cfg, "ReBNNConv2d")
    options: Config = dict(kernel_size=kernel_size, stride=stride, padding=kernel_size // 2, bias=False)
    options |= conv_cfg
    kind = options.pop("type")
    # torch's own layer needs no registry: mmcv, which registers it, may not be installed
    conv = kind if isinstance(kind, type) else nn.Conv2d if kind == "Conv2d" else MODELS.get(str(kind))
    if conv is None:
        raise UserError(
            f"conv_cfg type {kind!r} is not registered; 'ReBNNConv2d' and 'Conv2d' always are, or give the class"
        )
    return conv(in_channels, out_channels, **options)


def pooling(stride: int) -> nn.Module:
    """What a shortcut without parameters does beside a strided convolution: the average, or nothing at stride 1.

    It rounds up, as a padded 3x3 convolution of the same stride does, so odd sizes match.
    """
    return nn.AvgPool2d(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity()


def downsampling(in_channels: int, out_channels: int, stride: int, norm_cfg: Config) -> nn.Module:
    """Real-valued shortcut: average pool (if strided) -> 1x1 convolution -> norm, or the identity."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    pool = [pooling(stride)] if stride > 1 else []
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return nn.Sequential(*pool, conv, build_norm(norm_cfg, out_channels))


@dataclass(frozen=True)
class Around:
    """Which activations stand around a block's convolutions; the default is ReActNet's.

    Attributes:
        act: After the shortcut: ``'rprelu'``, ``'prelu'`` (a slope a channel), ``'hardtanh'`` (IR-Net's)
            or ``'none'`` (Bi-Real Net's); or the class of one of them.
        shift: Whether each channel has a learnable threshold before the sign.

    Raises:
        ValueError: An unknown ``act``.
    """

    act: str | type[nn.Module] = "rprelu"
    shift: bool = True

    def __post_init__(self) -> None:
        word = _WORDS.get(self.act, self.act)
        if word not in _ACTIVATIONS:
            raise UserError(
                f"act={self.act!r}: a 1-bit block takes one of {sorted(_ACTIVATIONS)}, or the class of one of them"
            )
        object.__setattr__(self, "act", word)

    def before(self, channels: int) -> nn.Module:
        """What stands before the convolution."""
        return ChannelShift(channels) if self.shift else nn.Identity()

    def after(self, channels: int) -> nn.Module:
        """What stands after the shortcut."""
        return _ACTIVATIONS[str(self.act)](channels)


class BinaryUnit(nn.Module):
    """shift -> 1-bit convolution -> norm, + shortcut, -> RPReLU, or the activations that ``around`` names.

    The shortcut is given to ``forward``, so one unit serves the basic and the bottleneck block.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        conv_cfg: Config,
        norm_cfg: Config,
        around: Around | None = None,
    ) -> None:
        super().__init__()
        around = around or Around()
        self.shift = around.before(in_channels)
        self.conv = build_conv(conv_cfg, in_channels, out_channels, kernel_size, stride)
        self.norm = build_norm(norm_cfg, out_channels)
        self.act = around.after(out_channels)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """(N, C_in, H, W) and the shortcut's (N, C_out, H', W') -> (N, C_out, H', W')."""
        if unit_fuses(self, x, shortcut):
            return fused_unit(self, x, shortcut)
        return self.act(self.norm(self.conv(self.shift(x))) + shortcut)


class BasicBlock(nn.Module):
    """One 3x3 1-bit convolution with its own shortcut; a ResNet-18 has sixteen of them."""

    convs = 1
    expansion = 1

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int,
        conv_cfg: Config,
        norm_cfg: Config,
        around: Around | None = None,
    ) -> None:
        super().__init__()
        self.unit = BinaryUnit(in_channels, planes, 3, stride, conv_cfg, norm_cfg, around)
        self.downsample = downsampling(in_channels, planes, stride, norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, planes, ceil(H/stride), ceil(W/stride))."""
        return self.unit(x, self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 1-bit convolutions, one shortcut around each of them.

    The first shortcut averages groups of channels down to ``planes`` (no parameters), the second is
    the identity (pooled when strided), the third is the block's own: no path is 1-bit only.
    """

    convs = 3
    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int,
        conv_cfg: Config,
        norm_cfg: Config,
        around: Around | None = None,
    ) -> None:
        super().__init__()
        out_channels = planes * self.expansion
        self.planes = planes
        self.reduce = BinaryUnit(in_channels, planes, 1, 1, conv_cfg, norm_cfg, around)
        self.spatial = BinaryUnit(planes, planes, 3, stride, conv_cfg, norm_cfg, around)
        self.expand = BinaryUnit(planes, out_channels, 1, 1, conv_cfg, norm_cfg, around)
        self.pool = pooling(stride)
        self.downsample = downsampling(in_channels, out_channels, stride, norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, 4 * planes, ceil(H/stride), ceil(W/stride))."""
        n, _, h, w = x.shape
        y = self.reduce(x, x.view(n, self.planes, -1, h, w).mean(dim=2))
        y = self.spatial(y, self.pool(y))
        return self.expand(y, self.downsample(x))
