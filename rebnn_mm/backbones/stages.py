"""What the backbones share: a stem, then stages whose maps are returned, some of them frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rebnn_mm.backbones.blocks import Config
from rebnn_mm.errors import UserError


class Stages(BaseModule):
    """A backbone of ``stem`` and ``layer1``, ``layer2``, ..., which its class builds and hands to :meth:`_build`.

    Args:
        out_indices: Stages whose maps are returned, counted from 0; None is the last one.
        frozen_stages: -1 trains all, 0 freezes the stem, k the stem and the first k stages.
        norm_eval: Keep all batch norms in eval mode while training.
        init_cfg: mmengine's; None draws convolutions by Kaiming's rule.
    """

    stem: nn.Module

    def __init__(
        self,
        out_indices: Sequence[int] | None,
        frozen_stages: int,
        norm_eval: bool,
        init_cfg: Config | list[Config] | None,
    ) -> None:
        super().__init__(init_cfg or dict(type="Kaiming", layer="Conv2d", mode="fan_out", nonlinearity="relu"))
        self._out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

    def _build(self, stem: nn.Module, stages: Sequence[nn.Module]) -> None:
        """Take over the parts.

        Raises:
            UserError: ``out_indices`` or ``frozen_stages`` names none of them.
        """
        names, count = range(len(stages)), len(stages)
        self.out_indices = (names[-1],) if self._out_indices is None else tuple(self._out_indices)
        if not self.out_indices or not set(self.out_indices) <= set(names):
            raise UserError(f"out_indices={self.out_indices}: name at least one of the stages {str([*names])[1:-1]}")
        if self.frozen_stages not in range(-1, count + 1):
            raise UserError(
                f"frozen_stages={self.frozen_stages!r}: -1 (none), 0 (stem) or 1..{count} (stem and stages) is allowed"
            )
        self.stem = stem
        for index, stage in enumerate(stages, 1):
            self.add_module(f"layer{index}", stage)
        self._freeze()

    @property
    def stages(self) -> list[nn.Module]:
        """The stages, in order."""
        return [stage for name, stage in self.named_children() if name.startswith("layer")]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Image batch -> maps of the stages named in ``out_indices``."""
        x = self.stem(x)
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                maps.append(x)
        return tuple(maps)

    def train(self, mode: bool = True) -> Stages:
        """Switch to training, keeping frozen stages (and with ``norm_eval`` all norms) in eval mode."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        frozen: list[Any] = [self.stem, *self.stages][: self.frozen_stages + 1]
        for module in frozen:
            module.eval()
            module.requires_grad_(False)
