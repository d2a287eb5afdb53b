"""A hook that kills a rank of a distributed training."""

import os
import signal
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from rebnn_mm.files import atomic


@HOOKS.register_module(force=True)
class Fault(Hook):
    """Kill one rank once, and leave every rank's weights and the images of each epoch in ``folder``.

    Args:
        folder: For ``rank0.pt``, ...: weights at the end, and per epoch the images that this process saw.
        rank: Which one dies.
        iteration: After which iteration, or None.
        saving: In the middle of writing the file of this name, or None.
    """

    priority = "LOWEST"

    def __init__(self, folder, rank=0, iteration=None, saving=None):
        self.folder, self.rank, self.iteration, self.saving = Path(folder), rank, iteration, saving
        self.images = {}

    def before_train(self, runner):
        self.start = runner.epoch
        if self.saving is None or runner.rank != self.rank:
            return
        sync = atomic._sync

        def die_half_way(part):
            if self.saving in part.name:
                os.truncate(part, part.stat().st_size // 2)
                self._die()
            sync(part)

        atomic._sync = die_half_way

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.images.setdefault(runner.epoch, []).extend(sample.img_path for sample in data_batch["data_samples"])
        if runner.rank == self.rank and runner.iter + 1 == self.iteration:
            self._die()

    def after_train(self, runner):
        model = getattr(runner.model, "module", runner.model)
        left = dict(weights=model.state_dict(), images=self.images, start=self.start)
        torch.save(left, self.folder / f"rank{runner.rank}.pt")

    def _die(self):
        died = self.folder / "died"
        if not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
