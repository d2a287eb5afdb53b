"""Random numbers that depend on the epoch alone, so that a resumed run goes on as an uninterrupted one."""

from __future__ import annotations

import logging
import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import FUNCTIONS, HOOKS


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seed python, numpy and torch (all devices) from (seed, epoch, rank) at the start of each epoch.

    mmengine's checkpoints hold no generator states, and a validation between saving and going on
    draws from the generators. With this hook an epoch's random numbers depend on neither, so that
    resuming at an epoch's end is exact. The workers of the data loader follow the main process when
    the loader has ``worker_init_fn=dict(type='seed_worker')`` and ``persistent_workers=False``.

    Not covered: resuming an iteration-based run (``by_epoch=False``) within its single epoch.
    """

    # before any other hook draws a number
    priority = "VERY_HIGH"

    def before_train(self, runner) -> None:
        """Warn when workers outlive the epoch: they cannot be seeded again."""
        loader = runner.train_dataloader
        if loader.num_workers > 0 and loader.persistent_workers:
            print_log(
                "EpochSeedHook: train_dataloader.persistent_workers=True keeps the workers' random generators across "
                "epochs, so a resumed run will augment differently; set it to False for exact resuming",
                logger="current",
                level=logging.WARNING,
            )

    def before_train_epoch(self, runner) -> None:
        """Seed this epoch."""
        _seed_all(_mix(runner.seed, runner.epoch, get_rank()))


@FUNCTIONS.register_module()
def seed_worker(worker_id: int, **kwargs: Any) -> None:
    """Seed a loader worker's python and numpy from its torch seed, which is new in each epoch.

    For ``train_dataloader.worker_init_fn=dict(type='seed_worker')``. mmengine's own function gives a
    worker the same seed in every epoch, and with it the same augmentations.

    Args:
        worker_id: Index of the worker; torch has already mixed it into the seed.
        kwargs: Ignored; what a config or another mmengine version adds.
    """
    _seed_all(_mix(torch.initial_seed()))


def _mix(*numbers: int) -> int:
    """Numbers >= 0 to one 32-bit seed; neighbours (epoch 1, epoch 2) get unrelated streams."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
