"""1-bit ResNet-18, -20, -34 and -50 with the options of mmdet's backbones."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.registry import MODELS
from torch import nn

from rebnn_mm.backbones.blocks import Around, BasicBlock, Bottleneck, Config, build_norm
from rebnn_mm.backbones.stages import Stages
from rebnn_mm.checks import check_whole
from rebnn_mm.errors import UserError


@MODELS.register_module()
class ReBNNResNet(Stages):
    """ResNet whose convolutions, but for the stem and the downsampling, are 1-bit.

    (N, in_channels, H, W) -> a tuple of maps, one for each of ``out_indices``, at strides 4, 8,
    16, 32 (ImageNet stem) or 1, 2, 4, 8 (CIFAR stem), sizes rounded up. Depth 20, the network of papers on CIFAR
    (He et al., CVPR 2016, section 4.2), has the first three of these stages.

    Args:
        depth: 18, 20 or 34 (one 3x3 convolution a block) or 50 (bottleneck).
        conv_cfg: The 1-bit convolution, of any method, by its name or class; default ``dict(type='ReBNNConv2d')``.
            ``dict(type='Conv2d')`` is the real-valued twin, ``dict(type='ReBNNConv2d', activation_only=True)`` is
            stage one.
        in_channels: Channels of the image.
        base_channels: Channels of the stem and the first stage; the papers' ResNet-20 has 16.
        stem: ``'imagenet'`` (7x7 stride 2, max-pool) or ``'cifar'`` (3x3 stride 1).
        out_indices: Stages whose maps are returned, counted from 0; default the last one.
        frozen_stages: -1 trains all, 0 freezes the stem, k the stem and the first k stages.
        norm_cfg: Batch norm of stem, blocks and downsampling; default ``dict(type='BN')``.
        norm_eval: Keep all batch norms in eval mode while training.
        act: After each shortcut: ``'rprelu'`` (ReActNet), ``'prelu'``, ``'hardtanh'`` or ``'none'``, or the class.
        shift: Give each channel a learnable threshold before its sign (ReActNet).
        init_cfg: mmengine's; a ``Pretrained`` checkpoint may hold real-valued weights (stage one,
            or a real-valued twin), alpha is then taken from them.

    Raises:
        ValueError: A depth, stem, stage, norm or activation that does not exist.
    """

    # blocks of one (18, 34) or three (50) convolutions in each stage
    settings: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
        18: (BasicBlock, (4, 4, 4, 4)),
        20: (BasicBlock, (6, 6, 6)),
        34: (BasicBlock, (6, 8, 12, 6)),
        50: (Bottleneck, (3, 4, 6, 3)),
    }

    def __init__(
        self,
        depth: int = 18,
        conv_cfg: Config | None = None,
        in_channels: int = 3,
        base_channels: int = 64,
        stem: str = "imagenet",
        out_indices: Sequence[int] | None = None,
        frozen_stages: int = -1,
        norm_cfg: Config | None = None,
        norm_eval: bool = False,
        act: str | type[nn.Module] = "rprelu",
        shift: bool = True,
        init_cfg: Config | list[Config] | None = None,
    ) -> None:
        super().__init__(out_indices, frozen_stages, norm_eval, init_cfg)
        check_whole("ReBNNResNet: in_channels", in_channels)
        check_whole("ReBNNResNet: base_channels", base_channels)
        if depth not in tuple(self.settings):  # a list, which is no key of a dict, is refused as well
            raise UserError(f"depth={depth!r}: ReBNNResNet has depths {sorted(self.settings)}")
        self.depth = depth
        block, counts = self.settings[depth]
        conv_cfg = conv_cfg or dict(type="ReBNNConv2d")
        norm_cfg = norm_cfg or dict(type="BN")
        around = Around(act, shift)

        first = _build_stem(stem, in_channels, base_channels, norm_cfg)
        channels = base_channels
        stages = []
        for stage, count in enumerate(counts):
            planes = base_channels * 2**stage
            blocks = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(channels, planes, stride, conv_cfg, norm_cfg, around))
                channels = planes * block.expansion
            stages.append(nn.Sequential(*blocks))
        self._build(first, stages)


def _build_stem(kind: str, in_channels: int, channels: int, norm_cfg: Config) -> nn.Sequential:
    if kind == "imagenet":
        conv = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
        return nn.Sequential(conv, build_norm(norm_cfg, channels), nn.MaxPool2d(3, stride=2, padding=1))
    if kind == "cifar":
        conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        return nn.Sequential(conv, build_norm(norm_cfg, channels))
    raise UserError(f"stem={kind!r}: 'imagenet' (7x7, stride 2, max-pool) or 'cifar' (3x3, stride 1)")
