"""Refuse what is done to a plain convolution and gives a 1-bit one other outputs, in silence.

Other libraries see a 1-bit layer as the ``nn.Conv2d`` or ``nn.Linear`` that it is a subclass of. They fold a batch
norm into its latent weight (mmcv's ``fuse_conv_bn``, torch's ``fuse_conv_bn_eval``), whose size a sign does not
carry; they compute its weight from other tensors (weight norm, spectral norm, pruning); or they call the convolution
past ``forward`` (``efficient_conv_bn_eval`` of mmcv and mmengine), which leaves out the signs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rebnn_mm.errors import UserError
from rebnn_mm.layers.interface import BinaryLayer

_FOLD = (
    "Keep the batch norm: rebnn_mm.deploy.export_model folds it exactly where it packs the layer, and real-valued "
    "layers can be folded by themselves"
)


# the tensors from which weight norm, spectral norm and pruning compute a weight
_COMPUTED_FROM = frozenset(("weight_g", "weight_v", "weight_u", "weight_orig", "weight_mask"))


class GuardedLayer(BinaryLayer):
    """A 1-bit layer whose ``weight`` and ``bias`` are exchanged only where the result stays right.

    Tying, ``binarize``, ``load_state_dict(assign=True)``, ``functional_call``, ``to_empty`` and copies pass. A layer
    with real-valued weights (``activation_only=True``) may be folded and reparametrised like a plain one.
    """

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Add a parameter, as torch does; ``layer.weight = ...`` comes here too.

        Raises:
            UserError: The weight of before times a factor a channel; a bias where the layer has none; a tensor that
                the weight is to be computed from.
        """
        if self.binarizes_weight:
            self._check_parameter(name, param)
        super().register_parameter(name, param)

    def _check_parameter(self, name: str, param: nn.Parameter | None) -> None:
        if name in _COMPUTED_FROM:
            raise UserError(self._refuse_computed_weight(f"adds {name!r} to it"))
        old = self._parameters.get(name)
        if name == "bias" and old is None and name in self._parameters and param is not None:
            raise UserError(
                f"{type(self).__name__}: it was built without a bias and is given one. Where a batch norm is being "
                f"folded into the layer, this cannot work: its weight is 1-bit. {_FOLD}. Build it with bias=True to "
                "have a bias of its own"
            )
        if name == "weight" and _is_scaled(param, old):
            raise UserError(
                f"{type(self).__name__}: its weight is exchanged for itself times a factor in each output channel, as "
                "when a batch norm is folded into a convolution (fuse_conv_bn). Only the signs of the weight count, so "
                f"the factor would be lost. {_FOLD}"
            )

    def __delattr__(self, name: str) -> None:
        """Delete an attribute, but for a 1-bit weight.

        Raises:
            UserError: ``name`` is ``'weight'``: a parametrization takes its place.
        """
        if name == "weight" and self.binarizes_weight:
            raise UserError(self._refuse_computed_weight("takes its parameter away"))
        super().__delattr__(name)

    def _refuse_computed_weight(self, what: str) -> str:
        return (
            f"{type(self).__name__}: something computes its weight from other tensors and {what} (weight norm, "
            "spectral norm, pruning or another parametrization; FSDP's flat parameters). Only the signs of the weight "
            "count: a norm changes none of them, and a weight that is pruned to 0 would become +1. Leave these out "
            "for 1-bit layers"
        )


def _is_scaled(new: Tensor | None, old: Tensor | None) -> bool:
    """Whether each output channel of ``new`` is the one of ``old`` times a number, beyond rounding not always 1."""
    if type(new) is not nn.Parameter or type(old) is not nn.Parameter or new is old:
        return False
    if new.shape != old.shape or new.device != old.device or new.is_meta or new.flatten(1).shape[1] < 2:
        return False
    with torch.no_grad():
        a, b = old.detach().flatten(1).double(), new.detach().flatten(1).double()
        factor = (a * b).sum(1, keepdim=True) / a.square().sum(1, keepdim=True).clamp_min(1e-300)
        eps = torch.finfo(new.dtype).eps
        rounding = 2 * eps * b.abs().amax(1, keepdim=True)
        proportional = ((b - factor * a).abs() <= rounding).all()
        used = a.abs().amax(1, keepdim=True) > 0
        changed = ((factor - 1).abs() > 8 * eps) & used
        return bool(proportional & changed.any() & (factor != 0).any())
