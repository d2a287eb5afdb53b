"""A learning rate of their own for latent weights.

A latent weight counts by its sign alone, and Adam's steps have one size whatever the gradient's: how soon a sign may
flip is decided by the size of the weight over that of a step. Other parameters (norms, alpha, the classifier) are
read with their values, so that one learning rate hardly suits both (docs/recipe.md has measurements).
"""

from __future__ import annotations

import logging
from collections import Counter
from difflib import get_close_matches
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from rebnn_mm.checks import check_dict, check_number
from rebnn_mm.errors import UserError, unknown_name
from rebnn_mm.layers.interface import binary_layers

# what mmengine's constructor reads of paramwise_cfg; it passes every other name by without a word
STOCK_OPTIONS = frozenset(
    {
        "custom_keys",
        "bias_lr_mult",
        "bias_decay_mult",
        "norm_decay_mult",
        "dwconv_decay_mult",
        "flat_decay_mult",
        "dcn_offset_lr_mult",
        "bypass_duplicate",
    }
)
_OPTIONS = STOCK_OPTIONS | {"latent_lr_mult"}
_RULE = ("lr_mult", "decay_mult")
_WHERE = "optim_wrapper.paramwise_cfg"


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
        UserError: ``paramwise_cfg`` has a name that nobody reads, ``latent_lr_mult`` is not a positive number, the
            optimizer has no ``lr``, or modules share a parameter and ``bypass_duplicate`` is not set.
    """

    def _validate_cfg(self) -> None:
        check_paramwise(self.paramwise_cfg)
        super()._validate_cfg()
        mult = self.paramwise_cfg.get("latent_lr_mult", 1.0)
        if mult != 1 and self.base_lr is None:
            raise UserError(f"{_WHERE}.latent_lr_mult={mult!r}: optim_wrapper.optimizer has no lr")

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


def check_paramwise(paramwise: Any) -> None:
    """Refuse names in ``paramwise_cfg`` that nobody reads, and factors that are no numbers.

    A typing error in a name would leave a training without its rule.

    A rule of ``custom_keys`` may have names of its own, which mmengine puts into the group for an optimizer or a hook
    (LARS reads ``lars_exclude``). There only what looks like a misspelt ``lr_mult`` or ``decay_mult`` is refused.

    Raises:
        UserError: An unknown name; no dict, or no number, where one is needed.
    """
    check_dict(_WHERE, paramwise)
    for name, value in paramwise.items():
        if name not in _OPTIONS:
            raise unknown_name(_WHERE, name, _OPTIONS)
        if name == "latent_lr_mult":
            check_number(f"{_WHERE}.{name}", value, above=0)
        elif name.endswith("_mult"):
            check_number(f"{_WHERE}.{name}", value, or_none=True)
    rules = paramwise.get("custom_keys", {})
    check_dict(f"{_WHERE}.custom_keys", rules)
    for key, rule in rules.items():
        place = f"{_WHERE}.custom_keys[{key!r}]"
        check_dict(place, rule)
        for name, value in rule.items():
            if name in _RULE:
                check_number(f"{place}.{name}", value)
            elif get_close_matches(str(name), _RULE, cutoff=0.8):
                raise unknown_name(place, name, _RULE)


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
