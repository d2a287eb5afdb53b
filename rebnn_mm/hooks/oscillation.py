"""Record, layer by layer, whether the signs of a 1-bit network oscillate."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from rebnn_mm.checks import check_number, check_whole
from rebnn_mm.errors import UserError
from rebnn_mm.files.oscillation import COLUMNS, Header, pool
from rebnn_mm.hooks.attach import layers_by_optimizer, trained_layers
from rebnn_mm.hooks.balance import BalanceHook
from rebnn_mm.hooks.layer_watch import LayerWatch
from rebnn_mm.hooks.oscillation_record import OscillationRecord
from rebnn_mm.hooks.sign_history import WINDOW
from rebnn_mm.hooks.trouble import Trouble


@HOOKS.register_module()
class OscillationHook(Hook):
    """Observe the latent weights of every trained 1-bit layer, of any method; nothing in the training changes.

    A snapshot of the signs is taken every ``interval`` updates, and each gives one record with these values a layer:

    - ``flip_share``: signs that differ from the last snapshot, as a share of all. Signs that flip and return within
      one interval cancel, so it is less than ``interval`` times ``update_flip_share``; how much less says how many do.
    - ``flip_back_share``: signs that flipped and had flipped before within the last three snapshots, so that they
      return to an earlier value (:class:`rebnn_mm.hooks.sign_history.SignHistory`); also a share of all signs.
    - ``update_flip_share``: signs that a single update changed, the first one of the interval.
    - ``band_share``: weights with ``|w| < band * mean |w|``; a normal distribution has 0.064 of them for 0.1.
    - ``saturated_share``: weights with ``|w| > 1``, which the clipped straight-through slope gives no gradient.
    - ``dead_channel_share``: output channels that carry nothing or cannot move: all signs equal, so that the binary
      filter has no entropy (IR-Net, CVPR 2020, section 3.2), or all weights saturated.
    - ``gamma_mean``, ``gamma_max``, ``alpha_mean``: as the recorded update used them; NaN for a method without them.
    - ``task_grad``, ``reconstruction_grad``: norms of ``dL_S/dw`` and ``dL_R/dw`` in the recorded update, after
      accumulation, averaging over ranks, unscaling and clipping.

    Histograms of the latent weights of every layer, and of the first layer's first channel, are taken before the first
    update, with every ``histogram_interval``-th record, and at the end.

    Everything goes to ``oscillation.bin`` in the work dir (:mod:`rebnn_mm.files.oscillation`; read it with
    :func:`rebnn_mm.analysis.read_oscillation`, draw it with ``tools/analyze.py``), and as scalars
    ``oscillation/<value>`` to the visualizer's backends. A run that starts afresh in the work dir replaces the file,
    a resumed one cuts it back to its checkpoint and goes on; what is remembered of the signs, three bits a weight,
    is in the checkpoint, so that the records are those of an uninterrupted run. Nothing that is wrong with the file
    stops a training: a full disk is warned about, what could not be written is left out, and a file that cannot be
    resumed is moved aside.

    Trouble that a record shows is warned about once (:mod:`rebnn_mm.hooks.trouble`): more than a tenth of a layer's
    weights saturated, a layer whose channels have one sign each, no flips long before the end.

    Measured on the main rank only, on the optimizers' step: accumulated iterations count once, updates that a
    GradScaler skips not at all. With several optimizers an iteration in which any of them steps is one update.

    Args:
        interval: Updates between two snapshots.
        histogram_interval: Records between two histograms.
        band: Half the width of the band around zero, in units of the layer's mean ``|w|``.
        layer_scalars: Also send ``oscillation/<value>/<layer>`` of every layer to the visualizer's backends.

    Raises:
        ValueError: An option out of range; no 1-bit layer is trained; a BalanceHook that runs before this hook; an
            optimizer that unscales by itself.
    """

    # ahead of BalanceHook (NORMAL), whose pre-hook adds dL_R/dw to the gradient and whose post-hook changes gamma
    priority = "ABOVE_NORMAL"

    def __init__(
        self, interval: int = 50, histogram_interval: int = 20, band: float = 0.1, layer_scalars: bool = False
    ) -> None:
        for name, value in (("interval", interval), ("histogram_interval", histogram_interval)):
            check_whole(f"OscillationHook: {name}", value)
        check_number("OscillationHook: band", band, above=0, hint=", in units of the mean |w|")
        self.interval = interval
        self.histogram_interval = histogram_interval
        self.band = band
        self.layer_scalars = layer_scalars
        self._watches: list[LayerWatch] = []
        self._updates = 0
        self._stepped = False  # whether an optimizer has updated a layer in this iteration
        self._several = False  # optimizers, which may step in different iterations
        self._resumed: dict[str, Any] = {}
        self._handles: list[Any] = []
        self._records = 0
        self._histogram_at = -1
        self._warned = False

    def before_train(self, runner) -> None:
        """Find the layers, open the file and attach to every optimizer that updates one."""
        if not is_main_process() or not self._is_the_one_that_records(runner):
            return
        _refuse_balance_before(self, runner)
        layers = trained_layers("OscillationHook", runner.model)
        groups = layers_by_optimizer("OscillationHook", runner.optim_wrapper, layers)
        updated = {name for _, _, mine in groups for name in mine}
        self._watches = [LayerWatch(name, layer, self.band) for name, layer in layers.items() if name in updated]
        self._take_up(runner)
        self._several = len(groups) > 1
        for _, wrapper, mine in groups:
            watches = [watch for watch in self._watches if watch.name in mine]
            self._handles += [
                wrapper.optimizer.register_step_pre_hook(partial(self._before_update, watches)),
                wrapper.optimizer.register_step_post_hook(partial(self._after_update, watches)),
            ]
        self._open(runner)

    @torch.no_grad()
    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Take the snapshot that this iteration's update has made due, and write it: one transfer from the device."""
        if not self._stepped:
            return
        self._stepped = False
        self._updates += 1
        if self._updates % self.interval:
            return
        values = torch.stack([watch.snapshot() for watch in self._watches]).cpu().numpy()
        iteration = runner.iter + 1
        self._record.record(iteration, values)
        for sentence in self._trouble.read(values, iteration / runner.max_iters):
            _warn(sentence)
        self._records += 1
        if self._records % self.histogram_interval == 0:
            self._write_histograms(iteration)
        try:
            runner.visualizer.add_scalars(self._scalars(values), step=iteration)
        except OSError as error:
            if not self._warned:
                _warn(f"OscillationHook: the visualizer cannot write: {error}. The training goes on")
                self._warned = True

    def after_train(self, runner) -> None:
        """Write the last histograms and detach from the optimizers."""
        if self._watches and self._histogram_at < runner.iter:
            self._write_histograms(runner.iter)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keep what is remembered of the signs."""
        if self._watches:
            checkpoint["rebnn_oscillation"] = dict(
                interval=self.interval,
                updates=self._updates,
                records=self._records,
                layers={watch.name: watch.state() for watch in self._watches},
            )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Take it up again; a checkpoint that is only loaded (not resumed) starts afresh."""
        if runner._resume:
            self._resumed = checkpoint.get("rebnn_oscillation", {})

    def _is_the_one_that_records(self, runner) -> bool:
        """Of several OscillationHooks, which would write one file, that with the most records."""
        hooks = [hook for hook in runner.hooks if isinstance(hook, OscillationHook)]
        chosen = min(hooks, key=lambda hook: hook.interval)
        if len(hooks) > 1 and chosen is self:
            _warn(
                f"OscillationHook is there {len(hooks)} times; the one with interval={self.interval} records, the "
                "others do nothing: remove them from custom_hooks or default_hooks"
            )
        return chosen is self

    def _take_up(self, runner) -> None:
        """Go on with the sign history of the checkpoint, where it fits this run."""
        self._updates, self._records, self._stepped = 0, 0, False
        if not runner.iter:
            return
        before = self._resumed.get("interval", self.interval)
        if not self._resumed or before != self.interval:
            why = f"with interval={before}" if self._resumed else "without it"
            _warn(f"OscillationHook: the checkpoint was saved {why}; flips are counted from here on")
            return
        self._records, updates = self._resumed["records"], self._resumed["updates"]
        self._updates = max(updates.values()) if isinstance(updates, dict) else updates  # one an optimizer, until 0.1
        states = self._resumed["layers"]
        for watch in self._watches:
            try:
                watch.load(states[watch.name])
            except (KeyError, ValueError):  # the layer is new, or of another size
                _warn(f"OscillationHook: the checkpoint has no signs of {watch.name}; its flips count from here on")

    def _open(self, runner) -> None:
        header = Header(
            layers=tuple(watch.name for watch in self._watches),
            weights=tuple(watch.layer.weight.numel() for watch in self._watches),
            channels=tuple(watch.layer.weight.shape[0] for watch in self._watches),
            interval=self.interval,
            window=WINDOW,
            band=self.band,
            iterations_per_epoch=_epoch_length(runner),
        )
        self._record = OscillationRecord(runner.work_dir, header, runner.iter or None)
        self._trouble = Trouble(header, [watch.layer.clips_weight for watch in self._watches])
        self._histogram_at = runner.iter
        if self._record.open():
            self._write_histograms(runner.iter)

    @torch.no_grad()
    def _before_update(self, watches: list[LayerWatch], optimizer, args, kwargs) -> None:
        is_recorded = (self._updates + 1) % self.interval == 0
        for watch in watches:
            # of an optimizer that does not step in the recorded iteration the interval's first update stands in
            if is_recorded or (self._several and watch.is_untouched):
                watch.read_update()

    @torch.no_grad()
    def _after_update(self, watches: list[LayerWatch], optimizer, args, kwargs) -> None:
        self._stepped = True
        for watch in watches:
            watch.count_update_flips()

    @torch.no_grad()
    def _write_histograms(self, iteration: int) -> None:
        found = [self._watches[0].histogram(first_channel=True), *(watch.histogram() for watch in self._watches)]
        limits = torch.stack([limit for limit, _ in found]).tolist()
        counts = torch.stack([bins for _, bins in found]).cpu().numpy()
        for what, limit in enumerate(limits):
            self._record.histogram(iteration, what, limit, counts[what])
        self._histogram_at = iteration

    def _scalars(self, values: np.ndarray) -> dict[str, float]:
        """What goes to the visualizer; a value that no layer has is left out."""
        scalars = {}
        for column, (name, how) in enumerate(COLUMNS.items()):
            scalars[f"oscillation/{name}"] = float(pool(values[:, column], how, self._record.header))
            if self.layer_scalars:
                rows = enumerate(self._watches)
                scalars |= {f"oscillation/{name}/{watch.name}": float(values[row, column]) for row, watch in rows}
        return {name: value for name, value in scalars.items() if np.isfinite(value)}


def _refuse_balance_before(hook: OscillationHook, runner) -> None:
    """The gradient of the task alone is there only until BalanceHook adds to it."""
    hooks = list(runner.hooks)
    if any(isinstance(other, BalanceHook) for other in hooks[: hooks.index(hook)]):
        raise UserError(
            "OscillationHook: BalanceHook runs first, so the task gradient could not be read; leave both hooks' "
            "priority at its default"
        )


def _epoch_length(runner) -> int:
    try:
        return len(runner.train_dataloader)
    except TypeError:  # a stream has no length: the whole training is one epoch
        return runner.max_iters


def _warn(text: str) -> None:
    print_log(text, logger="current", level=logging.WARNING)
