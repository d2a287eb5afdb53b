"""Stop at the first NaN or Inf, before it reaches the weights or a checkpoint, and say where it arose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn

from rebnn_mm.errors import NotFiniteError
from rebnn_mm.hooks.attach import unwrapped
from rebnn_mm.hooks.work_dir import newest_checkpoint
from rebnn_mm.layers.norm import InputNorm


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Raise when a loss holds NaN or Inf: before backward, so neither weights nor checkpoints take it up.

    A sign is finite whatever it is of, so that behind a 1-bit layer without a shortcut the loss says nothing. The batch
    and the statistics of norms in front of signs are looked at, too.

    The losses are read from the output of the model's forward, because ``after_train_iter`` comes when
    the update is done. The message has the epoch and iteration, every loss term, the first module in
    execution order whose output is not finite (found by a second forward without gradients), the
    parameters that are not finite, and the checkpoint to go back to. The same holds for saving: a model
    whose parameters, or statistics of norms, are not finite is not written over a good checkpoint.

    Costs one transfer of one number from the device in an iteration. Under distributed training all
    ranks decide together, because the second forward may hold collectives (SyncBN, averaged factors).

    Raises:
        FloatingPointError: A loss term, the batch, statistics in front of a sign or, when saving, a parameter is not
            finite.
    """

    # ahead of the checkpoint hooks: what is not finite is refused before anything is written or removed
    priority = "HIGH"

    def __init__(self) -> None:
        self._handle: Any = None
        self._norms: list[InputNorm] = []  # in front of signs

    def before_train(self, runner) -> None:
        """Watch the output of the unwrapped model."""
        model = unwrapped(runner.model)
        self._norms = [m for m in model.modules() if isinstance(m, InputNorm) and m.track_running_stats]

        def check(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            if module.training and isinstance(output, dict):
                self._check(runner, module, args, kwargs, output)

        self._handle = model.register_forward_hook(check, with_kwargs=True)

    def after_train(self, runner) -> None:
        """Stop watching."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Refuse to save weights that the last update made NaN or Inf, its loss being finite still."""
        bad = _bad_parameters(unwrapped(runner.model))
        if bad:
            raise NotFiniteError(f"{_moment(runner)}: not saved, {bad}. {_way_back(runner)}")

    def _check(self, runner, model: nn.Module, args: tuple, kwargs: dict, losses: dict) -> None:
        # As mmengine's parse_losses: only what has "loss" in its name is summed and differentiated.
        terms = [t for name, value in losses.items() if "loss" in name for t in _tensors(value)]
        if not terms:
            return
        hidden = [*_tensors((args, kwargs)), *(norm.running_var for norm in self._norms)]
        finite = [torch.isfinite(x.detach()).all().to(terms[0].device) for x in (*terms, *hidden)]
        here = torch.stack(finite).all().float()
        everywhere = here.clone()
        dist.all_reduce(everywhere, op="min")
        if everywhere.item() == 1:
            return
        # on every rank, the sound ones too: the second forward may wait for all of them
        origin = _first_bad_output(model, args, kwargs)
        listed = ", ".join(f"{name}={_value(value)}" for name, value in losses.items())
        if here.item() == 1:
            raise NotFiniteError(f"{_moment(runner)}: stopped, as another rank's loss is not finite; here: {listed}")
        what = "what a sign hides" if all(map(_is_finite, terms)) else "the loss"
        raise NotFiniteError(
            f"{_moment(runner)}: {what} is not finite (NaN or Inf): {listed}. "
            f"{origin}{_bad_parameters(model, end='. ')}{_way_back(runner)}"
        )


@torch.no_grad()
def _first_bad_output(model: nn.Module, args: tuple, kwargs: dict) -> str:
    """Run the model again and name the first module to finish with an output that is not finite."""
    sound_batch = all(_is_finite(t) for t in _tensors((args, kwargs)))
    found: list[str] = []

    def look(name: str):
        def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
            if not found and not all(_is_finite(t) for t in _tensors(output)):
                found.append(f"'{name}' ({type(module).__name__})")

        return hook

    # All modules, not leaves only: an inner one finishes before the one around it, and a ReBNN layer,
    # which holds its estimator, is no leaf.
    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        model.forward(*args, **kwargs)  # not model(...): the hook that called us must not run again
    except RuntimeError as error:  # e.g. out of memory: the losses and the way back still get reported
        return f"The layer could not be found (second forward: {error}). "
    finally:
        for handle in handles:
            handle.remove()
    if not sound_batch:
        return "The batch itself holds values that are not finite. "
    if found:
        return f"First layer whose output is not finite: {found[0]}. "
    return "Every layer's output is finite: look at the computation of the loss. "


def _bad_parameters(model: nn.Module, end: str = "") -> str:
    statistics = ((name, x) for name, x in model.named_buffers() if name.endswith(("running_mean", "running_var")))
    bad = [name for name, x in (*model.named_parameters(), *statistics) if not _is_finite(x)]
    if not bad:
        return ""
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return f"parameters that are not finite: {', '.join(bad[:3])}{more}{end}"


def _way_back(runner) -> str:
    path = newest_checkpoint(runner.work_dir)
    kept = f"The last good checkpoint is kept: {path}" if path else f"No checkpoint was saved yet in {runner.work_dir}"
    return f"{kept}. Lower the learning rate, warm up longer or clip gradients before going on."


def _moment(runner) -> str:
    return f"epoch {runner.epoch + 1}, iteration {runner.iter + 1}"


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _value(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.detach().float().mean().item():.4g}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(item) for item in value)}]"
    return str(value)
