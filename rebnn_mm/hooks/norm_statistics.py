"""Statistics of batch norms, estimated again before an evaluation.

The running statistics of a batch norm are an average over the last updates' weights. A sign that turns moves the
output of its 1-bit layer at once, so that they may fit none of these weights; those of an averaged model (EMA) belong
to other signs altogether. Estimating them with the weights as they are is Wu and Johnson, "Rethinking 'Batch' in
BatchNorm", 2021, section 3.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from rebnn_mm.checks import check_whole
from rebnn_mm.errors import UserError
from rebnn_mm.hooks.attach import refuse_several, unwrapped


@HOOKS.register_module()
class NormStatisticsHook(Hook):
    """Estimate the running statistics of all batch norms again after each epoch, before it is saved and evaluated.

    ::

        custom_hooks = [..., dict(type='NormStatisticsHook', batches=50)]

    The model runs on training batches as in training, without gradients, and each norm takes the average of their
    means and variances. Norms in front of signs (``input_norm=True``) are among them, which mmpretrain's
    ``PreciseBNHook`` does not know; norms in evaluation (frozen stages, ``norm_eval``) stay. With an ``EMAHook`` the
    averaged model gets statistics of its own.

    Args:
        batches: Batches of the training data; at most those of an epoch are used.
        interval: Epochs from one estimate to the next; the last epoch always has one.

    Raises:
        ValueError: A number that is no whole number >= 1; a loop without epochs; a model without a batch norm that
            trains; an ``EMAHook`` that would evaluate the averaged model with the other one's statistics.
    """

    # before the EMA's and the checkpoint's turn
    priority = "ABOVE_NORMAL"

    def __init__(self, batches: int = 50, interval: int = 1) -> None:
        for name, value in (("batches", batches), ("interval", interval)):
            check_whole(f"NormStatisticsHook: {name}", value)
        self.batches, self.interval = batches, interval

    def before_train(self, runner) -> None:
        """Refuse what would have no effect."""
        refuse_several(self, runner.hooks)
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise UserError("NormStatisticsHook: it works at the end of epochs; use train_cfg=dict(by_epoch=True, ...)")
        for hook in runner.hooks:
            if isinstance(hook, EMAHook) and not hook.ema_model.update_buffers:
                raise UserError(
                    "NormStatisticsHook: EMAHook(update_buffers=False) evaluates averaged weights with the statistics "
                    "of the others; write dict(type='EMAHook', update_buffers=True, ...)"
                )
        runner.model.train()
        if not norms_in_training(runner.model):
            raise UserError(
                "NormStatisticsHook: the model has no batch norm that trains; remove the hook from custom_hooks"
            )

    def after_train_epoch(self, runner) -> None:
        """Estimate them for the model, and for its average."""
        if not (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            return
        model = unwrapped(runner.model)
        averages = [hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook)]
        for each in (model, *averages):
            was_training = each.training
            each.train()
            count = estimate(each, itertools.islice(runner.train_dataloader, self.batches))
            each.train(was_training)
        print_log(f"statistics of {count} batch norms estimated again", "current", logging.INFO)


def norms_in_training(model: nn.Module) -> list[_NormBase]:
    """Batch norms, and norms in front of signs, that keep running statistics and are in training mode."""
    norms = (module for module in model.modules() if isinstance(module, _NormBase))
    return [norm for norm in norms if norm.training and norm.running_mean is not None]


@torch.no_grad()
def estimate(model: Any, batches: Iterable[Any]) -> int:
    """Set the running statistics of the norms of ``model``, which is in training mode; returns their number.

    Args:
        model: Of mmengine's kind: it takes a batch through its ``data_preprocessor``, and ``mode='loss'``.
        batches: Of the training's loader; at least one.

    Raises:
        UserError: There is no batch.
    """
    norms = norms_in_training(model)
    seen = 0
    with _averaging(norms):
        for data in batches:
            seen += 1
            data = model.data_preprocessor(data, True)
            if isinstance(data, dict):
                model(**data, mode="loss")
            else:
                model(*data, mode="loss")
    if not seen:
        raise UserError("the statistics of batch norms are estimated on training batches, and there is none")
    for norm in norms:  # each process has seen batches of its own
        for statistic in (norm.running_mean, norm.running_var):
            dist.all_reduce(statistic, "mean")
    return len(norms)


@contextmanager
def _averaging(norms: list[Any]) -> Iterator[None]:
    """Within the block the norms' statistics begin anew and weigh all batches alike: momentum None of torch's.

    A norm that no batch has reached, one of a branch for predictions for example, keeps what it had.
    """
    before = [
        (norm, norm.momentum, norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone())
        for norm in norms
    ]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        yield
    finally:
        for norm, momentum, mean, variance, count in before:
            norm.momentum = momentum
            if not norm.num_batches_tracked:
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(variance)
            norm.num_batches_tracked.copy_(count)
