"""A learnable scale of each output channel, ``alpha``, which starts from the weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rebnn_mm.functional import scale_init
from rebnn_mm.layers.base import BinaryBase


class LearnedScale(BinaryBase):
    """Adds ``alpha``, (C_out,), initialised to the mean of ``|w|`` of its channel.

    It is a vector, as a bias is, because many models initialise "every parameter of more than one axis" with random
    values (mmdet's DETR, Mask2Former and Sparse R-CNN do): a scale of random sign would be left.

    Frameworks initialise ``weight`` long after the constructor, so a fresh alpha follows it: every use takes the
    mean of ``|w|``, and the first forward of a training writes it into ``alpha``, where it is learned from then on.
    An alpha that was set, averaged, trained or loaded before is left alone.

    Whether alpha still follows is read from the tensors and from nothing else: it does while it equals
    ``_alpha_start``, the value that the layer itself gave it. A copy (EMA, ``deepcopy``, pickle) thus agrees with what
    its own tensors hold, whatever was written into them; and so do the processes of ``DistributedDataParallel``, which
    sends both from the first to the others. Once alpha was trained or loaded, ``_alpha_fresh`` is False and nothing is
    compared. ``_alpha_start`` stays then: averages go through the buffers of two models side by side.

    To hold alpha where it starts, give it ``requires_grad=False``: with a learning rate of 0, an average that was
    copied before the training sees no write, and its alpha follows its weights.
    """

    alpha: nn.Parameter | None
    _alpha_start: Tensor
    _alpha_fresh: bool = False

    def _init_method(self) -> None:
        self.register_parameter("alpha", None)
        self.register_buffer("_alpha_start", None, persistent=False)
        if self.binarizes_weight:
            self.alpha = nn.Parameter(_mean_abs(self.weight))
            self._follow_from_here()

    def _follow_from_here(self) -> None:
        """Alpha follows the weight until someone writes into it."""
        self._alpha_start = self.alpha.detach().clone()
        self._alpha_fresh = True

    def _scale(self) -> Tensor | None:
        alpha = self._used_alpha()
        return None if alpha is None else self._beside_weight(alpha)

    def _beside_weight(self, vector: Tensor) -> Tensor:
        """(C_out,) -> (C_out, 1, ...), which multiplies a weight."""
        return vector.view(-1, *[1] * (self._tensor("weight").dim() - 1))

    def _used_alpha(self) -> Tensor | None:
        """(C_out,); the first time in a training it is written into the parameter."""
        if not self._alpha_fresh:
            return self.alpha
        if not self._begins_to_learn():
            return self._followed_alpha()
        with torch.no_grad():
            self._tensor("alpha").copy_(self._followed_alpha())
        self._alpha_fresh = False
        return self.alpha

    def _begins_to_learn(self) -> bool:
        """Whether a training begins; neither an exported forward nor one in evaluation may write."""
        if _is_exporting():
            return False
        if isinstance(self.alpha, torch.fx.Proxy):
            return True  # the traced module has the same parameters and no place for a choice
        return self.training or (torch.is_grad_enabled() and self.alpha.requires_grad)

    def _tensor(self, name: str) -> Tensor:
        """A parameter itself, where ``torch.fx`` gives a proxy of it."""
        tensor = self._parameters.get(name)
        return getattr(self, name) if tensor is None else tensor

    def _follows(self) -> Tensor:
        """A bool of no dimensions: no one has written into alpha. It stays on the device, so nothing waits for it."""
        alpha, start = self._tensor("alpha").detach(), self._alpha_start
        if alpha.shape != start.shape or alpha.device != start.device:  # another tensor was put in (functional_call)
            return torch.zeros((), dtype=torch.bool, device=alpha.device)
        return ((alpha == start) | (alpha.isnan() & start.isnan())).all()  # to_empty leaves anything, NaN too

    def _followed_alpha(self) -> Tensor:
        """``mean |w|`` if alpha follows the weight, alpha otherwise."""
        alpha = self._tensor("alpha")
        return torch.where(self._follows(), _mean_abs(self._tensor("weight")).to(alpha.dtype), alpha)

    @torch.no_grad()
    def reset_alpha(self) -> None:
        """Set alpha to the mean of ``|w|`` of each output channel; it follows the weight again."""
        if self.alpha is not None:
            self.alpha.copy_(_mean_abs(self.weight))
            self._follow_from_here()

    def reset_parameters(self) -> None:
        """Initialise all parameters as the constructor does; torch calls it after ``to_empty`` as well."""
        super().reset_parameters()
        if getattr(self, "alpha", None) is not None:  # the constructor calls this before alpha exists
            self.reset_alpha()

    def _apply(self, fn, recurse: bool = True):
        """Move or cast, ``to_empty`` too: an alpha that follows the weight does so afterwards."""
        follows = self._alpha_fresh and (self.alpha.is_meta or bool(self._follows()))
        super()._apply(fn, recurse)
        self._alpha_fresh = False
        if follows:
            self._follow_from_here()
        return self

    @torch.no_grad()
    def __setstate__(self, state: dict[str, Any]) -> None:
        """Give a copy (``deepcopy``, pickle) the alpha of its weight, so that averaging starts from the right one."""
        super().__setstate__(state)
        if not self._alpha_fresh or self.alpha.is_meta:
            return
        follows, alpha = self._follows(), self._followed_alpha()
        self._alpha_start.copy_(torch.where(follows, alpha, self._alpha_start))
        self.alpha.copy_(alpha)
        if self.weight.requires_grad and not self.alpha.requires_grad:
            self._alpha_fresh = False  # frozen on purpose: averaged weights must not move it

    def _save_to_state_dict(self, destination, prefix, keep_vars) -> None:
        """Save the alpha that a forward would use; the layer itself is left as it is."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not self._alpha_fresh or self.alpha.is_meta or keep_vars:
            return
        alpha = self._followed_alpha().detach()
        if not torch.equal(alpha, self._tensor("alpha")):  # else what is saved shares memory with alpha, as usual
            destination[f"{prefix}alpha"] = alpha

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ) -> None:
        """Accept a checkpoint of real-valued weights (stage one, ImageNet): alpha comes from them."""
        if (alpha := state_dict.get(f"{prefix}alpha")) is not None:  # (C_out, 1, ...) before alpha was a vector
            state_dict[f"{prefix}alpha"] = alpha.flatten()
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        # read afterwards: a load_state_dict pre-hook may have renamed the keys
        names = {name for name in ("weight", "alpha") if f"{prefix}{name}" in state_dict}
        if self.alpha is None or not names:
            return
        if names == {"weight"}:
            self._start_from_real_weights(local_metadata.get("assign_to_params_buffers", False))
            added = {f"{prefix}{name}" for name in self._added_tensors()}
            missing_keys[:] = [key for key in missing_keys if key not in added]
        self._alpha_fresh = False
        self._alpha_start = self.alpha.detach().clone()  # a state dict that is assigned leaves no tensor on "meta"

    def _added_tensors(self) -> tuple[str, ...]:
        """Tensors that a real-valued checkpoint does not have and the weight determines."""
        return ("alpha",)

    def _start_from_real_weights(self, assign: bool) -> None:
        """Set them; ``assign`` makes new ones, beside a weight that was exchanged and not copied into."""
        if assign:
            self.alpha = nn.Parameter(_mean_abs(self.weight), requires_grad=self.alpha.requires_grad)
        else:
            self.reset_alpha()


def _mean_abs(weight: Tensor) -> Tensor:
    """(C_out,), without gradient."""
    return scale_init(weight.detach()).flatten()


def _is_exporting() -> bool:
    if torch.compiler.is_dynamo_compiling():
        return False  # there torch.jit.is_tracing() and torch.compiler.is_exporting() are always True
    return torch.compiler.is_compiling() or torch.jit.is_tracing()
