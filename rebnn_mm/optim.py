"""A learning rate of their own for latent weights.

A latent weight counts by its sign alone, and Adam's steps have one size whatever the gradient's: how soon a sign may
flip is decided by the size of the weight over that of a step. Other parameters (norms, alpha, the classifier) are
read with their values, so that one learning rate hardly suits both (docs/recipe.md has measurements).
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from rebnn_mm.errors import UserError
from rebnn_mm.layers.interface import binary_layers


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LatentWeightConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor with one more option, for the latent weights of all 1-bit layers.

    ::

        optim_wrapper = dict(
            constructor='LatentWeightConstructor', paramwise_cfg=dict(latent_lr_mult=10.0), optimizer=...)

    Their learning rate is multiplied by ``latent_lr_mult``, also one that another rule of ``paramwise_cfg`` set. Alpha
    keeps that of all other parameters. Parameters with the same options share a group of the optimizer. A model without
    1-bit layers, a real-valued twin for example, is trained as by mmengine's constructor.

    Raises:
        UserError: ``latent_lr_mult`` is not a positive number, the optimizer has no ``lr``, or modules share a
            parameter and ``bypass_duplicate`` is not set.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        mult = self.paramwise_cfg.get("latent_lr_mult", 1.0)
        if isinstance(mult, bool) or not isinstance(mult, (int, float)) or not 0 < mult < float("inf"):
            raise UserError(f"optim_wrapper.paramwise_cfg.latent_lr_mult={mult!r}: a positive number is needed")
        if mult != 1 and self.base_lr is None:
            raise UserError(f"optim_wrapper.paramwise_cfg.latent_lr_mult={mult!r}: optim_wrapper.optimizer has no lr")

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = "",
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Add the parameters of ``module``; for the whole model (no prefix) with the rule of latent weights."""
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return
        mult = self.paramwise_cfg.get("latent_lr_mult", 1.0)
        latent = {id(layer.weight) for layer in binary_layers(module).values()}
        if mult != 1:
            for group in params:
                if id(group["params"][0]) in latent:
                    group["lr"] = group.get("lr", self.base_lr) * mult
            what = f"{len(latent)} latent weights learn {mult:g} times as fast" if latent else "no 1-bit layer"
            print_log(f"latent_lr_mult={mult:g}: {what}", logger="current", level=logging.INFO)
        _refuse_shared(params)
        params[:] = _joined(params)


def _refuse_shared(groups: list[dict[str, Any]]) -> None:
    """As torch does for a parameter in two groups; within one group, where it only warns, it would be updated twice."""
    count = Counter(id(parameter) for group in groups for parameter in group["params"])
    if shared := sum(times > 1 for times in count.values()):
        raise UserError(
            f"optim_wrapper: {shared} parameters belong to several modules, whose options may differ; "
            "paramwise_cfg=dict(bypass_duplicate=True) lets the first module's options count"
        )


def _joined(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One group for equal options: an optimizer updates a group's tensors together."""
    joined: list[dict[str, Any]] = []
    for group in groups:
        options = {key: value for key, value in group.items() if key != "params"}
        for other in joined:
            if {key: value for key, value in other.items() if key != "params"} == options:
                other["params"] = [*other["params"], *group["params"]]
                break
        else:
            joined.append(group)
    return joined
