"""The MobileNet of ReActNet (Liu et al., ECCV 2020, section 4.1): ReActNet-A."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from rebnn_mm.backbones.blocks import Around, BinaryUnit, Config, build_norm, pooling
from rebnn_mm.backbones.stages import Stages
from rebnn_mm.checks import check_whole
from rebnn_mm.errors import UserError


class MobileBlock(nn.Module):
    """A 1-bit 3x3 convolution, then a 1-bit 1x1 convolution, each with a shortcut around it.

    The first keeps its channels and carries the stride; its shortcut is pooled. Where the second doubles the channels,
    its shortcut is the input twice: the paper's two 1x1 convolutions whose results are concatenated are one
    convolution of twice the outputs, as each output channel has a weight, a scale and a norm of its own.
    """

    def __init__(
        self, channels: int, planes: int, stride: int, conv_cfg: Config, norm_cfg: Config, around: Around
    ) -> None:
        super().__init__()
        if planes not in (channels, 2 * channels):
            raise UserError(f"a block from {channels} to {planes} channels: it keeps them or doubles them")
        self.copies = planes // channels
        self.spatial = BinaryUnit(channels, channels, 3, stride, conv_cfg, norm_cfg, around)
        self.pool = pooling(stride)
        self.pointwise = BinaryUnit(channels, planes, 1, 1, conv_cfg, norm_cfg, around)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, planes, ceil(H/stride), ceil(W/stride))."""
        x = self.spatial(x, self.pool(x))
        return self.pointwise(x, torch.cat([x, x], dim=1) if self.copies == 2 else x)


@MODELS.register_module()
class ReBNNMobileNet(Stages):
    """MobileNet-V1's widths with 1-bit 3x3 and 1x1 convolutions; with ReActNet's layer it is ReActNet-A.

    (N, in_channels, H, W) -> a tuple of maps, one for each of ``out_indices``, of 2, 4, 8, 16, 32 times
    ``base_channels`` at strides 2, 4, 8, 16, 32, sizes rounded up. Only the stem is real-valued.

    Args:
        conv_cfg: The 1-bit convolution, of any method, by its name or class; default ``dict(type='ReBNNConv2d')``.
            ``dict(type='Conv2d')`` is the real-valued twin, ``dict(type='ReBNNConv2d', activation_only=True)`` is
            stage one.
        in_channels: Channels of the image.
        base_channels: Channels of the stem, a 3x3 convolution of stride 2; ReActNet-A has 32.
        blocks: Blocks of each of the five stages; fewer make a smaller network.
        out_indices: Stages whose maps are returned, counted from 0; default the last one.
        frozen_stages: -1 trains all, 0 freezes the stem, k the stem and the first k stages.
        norm_cfg: Batch norm of stem and blocks; default ``dict(type='BN')``.
        norm_eval: Keep all batch norms in eval mode while training.
        act: After each shortcut: ``'rprelu'`` (ReActNet), ``'prelu'``, ``'hardtanh'`` or ``'none'``, or the class.
        shift: Give each channel a learnable threshold before its sign (ReActNet).
        init_cfg: mmengine's; a ``Pretrained`` checkpoint may hold real-valued weights (stage one, or a real-valued
            twin), alpha is then taken from them.

    Raises:
        ValueError: A stage, number of blocks, norm or activation that does not exist.
    """

    def __init__(
        self,
        conv_cfg: Config | None = None,
        in_channels: int = 3,
        base_channels: int = 32,
        blocks: Sequence[int] = (1, 2, 2, 6, 2),
        out_indices: Sequence[int] | None = None,
        frozen_stages: int = -1,
        norm_cfg: Config | None = None,
        norm_eval: bool = False,
        act: str | type[nn.Module] = "rprelu",
        shift: bool = True,
        init_cfg: Config | list[Config] | None = None,
    ) -> None:
        super().__init__(out_indices, frozen_stages, norm_eval, init_cfg)
        check_whole("ReBNNMobileNet: in_channels", in_channels)
        check_whole("ReBNNMobileNet: base_channels", base_channels)
        if not blocks or any(not isinstance(count, int) or count < 1 for count in blocks):
            raise UserError(f"blocks={blocks!r}: a number of blocks, at least 1, for each stage")
        conv_cfg = conv_cfg or dict(type="ReBNNConv2d")
        norm_cfg = norm_cfg or dict(type="BN")
        around = Around(act, shift)
        stem = nn.Sequential(
            nn.Conv2d(in_channels, base_channels, 3, stride=2, padding=1, bias=False),
            build_norm(norm_cfg, base_channels),
        )
        stages = []
        for stage, count in enumerate(blocks):
            planes = base_channels * 2 ** (stage + 1)
            first = MobileBlock(planes // 2, planes, 2 if stage else 1, conv_cfg, norm_cfg, around)
            others = [MobileBlock(planes, planes, 1, conv_cfg, norm_cfg, around) for _ in range(count - 1)]
            stages.append(nn.Sequential(first, *others))
        self._build(stem, stages)
