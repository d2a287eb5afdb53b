"""Resuming with another config: what was changed takes effect, or is named with what to do instead."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop
from torch import Tensor

from rebnn_mm.errors import UserError
from rebnn_mm.hooks.config_changes import Changes, config_changes

_INSTEAD = "start from the weights alone with --cfg-options load_from=PATH, without --resume"
# of a scheduler: how far it has come, and not what it was given
_PROGRESS = {
    *("last_step", "_global_step", "_last_value", "verbose", "base_values"),
    *("best", "num_bad_epochs", "cooldown_counter"),
}
_ALWAYS = {"lr", "weight_decay", "momentum", "betas"}


@HOOKS.register_module()
class ResumeHook(Hook):
    """Let a resumed run train with the config it is given, and say in one sentence what is another than before.

    mmengine writes the checkpoint's optimizer settings and schedules over those of the config, so that a lower
    learning rate or more epochs would have no effect. This hook compares both while the checkpoint is loaded. Where
    they differ, the checkpoint gets the config's settings, and schedules that were taken through all steps done so
    far: the learning rate is what the new schedule says at this moment. The optimizer's state (moments) is kept.
    Where nothing differs the checkpoint is left as it is, and the run goes on bit for bit as an uninterrupted one.

    Not covered: what a ``ReduceOnPlateau`` schedule had seen starts anew with its settings.

    Raises:
        ValueError: Another optimizer, other parameter groups, or epochs exchanged for iterations: the checkpoint's
            state does not fit. Or more epochs (iterations) are done than the config has.
    """

    def __init__(self) -> None:
        self._resumed = False

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Compare, and put what was changed into ``checkpoint``, from which mmengine resumes next."""
        if not runner._resume or not isinstance(runner.optim_wrapper, OptimWrapper):
            return
        self._resumed = True
        changes = config_changes(checkpoint["meta"].get("cfg"), runner.cfg)
        _check_loop(runner, checkpoint["meta"], changes)
        said = [_count_iterations_anew(runner, checkpoint["meta"])]
        _check_groups(runner.optim_wrapper, checkpoint, changes)
        _fit_moments(runner.optim_wrapper, checkpoint)
        if changes.under("optim_wrapper", "param_scheduler") or _settings_differ(runner, checkpoint, changes):
            _go_through(runner, checkpoint["meta"])
            _put_settings(runner, checkpoint, changes)
            said.append(f"from here on lr={_rates(runner)}, as the config's schedule has it")
        said.append(_about_seed(runner, checkpoint["meta"]))
        _say(runner, changes, [sentence for sentence in said if sentence])

    def before_train(self, runner) -> None:
        """Say so when nothing is left to train, or when the rest would be trained with a rate of 0."""
        if not self._resumed:
            return
        done, end, unit = _progress(runner)
        if done == end:
            print_log(
                f"{done} of {end} {unit} are done: nothing is left to train; train_cfg.max_{unit}=N makes the run "
                "longer",
                "current",
                logging.WARNING,
            )
        elif _stays_zero(runner):
            print_log(
                f"the learning rate stays 0 after {done} of {end} {unit}: param_scheduler has come to its end; give "
                "it a later end, or take its end out, which then is that of the training",
                "current",
                logging.WARNING,
            )


def _progress(runner) -> tuple[int, int, str]:
    """What is done and what there is to do, in epochs or in ``iters``, as ``train_cfg`` counts."""
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        return runner.iter, runner.max_iters, "iters"
    return runner.epoch, runner.max_epochs, "epochs"


def _check_loop(runner, meta: dict, changes: Changes) -> None:
    _, end, unit = _progress(runner)
    before = changes.before.get("train_cfg.max_epochs"), changes.before.get("train_cfg.max_iters")
    if before[unit == "epochs"] is not None and before[unit == "iters"] is None:
        raise UserError(f"train_cfg counts {unit}, the checkpoint was saved by a run that did not: {_INSTEAD}")
    done = meta["iter" if unit == "iters" else "epoch"]
    if done > end:
        raise UserError(
            f"train_cfg.max_{unit}={end}, and {done} {unit} are done in the checkpoint: give a greater number, or "
            "resume from an earlier checkpoint"
        )


def _count_iterations_anew(runner, meta: dict) -> str:
    """An epoch has another length (batch size, data set, processes): let the iterations follow from the epochs."""
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        return ""
    length, epoch, before = len(runner.train_dataloader), meta["epoch"], meta["iter"]
    if epoch == 0 or before % epoch or before == epoch * length:  # a checkpoint within an epoch keeps its number
        return ""
    meta["iter"] = epoch * length
    return f"an epoch has {length} iterations and had {before // epoch}: iteration {before} counts as {meta['iter']}"


def _wrappers(optim_wrapper: OptimWrapper) -> dict[str, OptimWrapper]:
    """Every optimizer's wrapper by its name, which is '' for a single one."""
    return dict(optim_wrapper.items()) if isinstance(optim_wrapper, OptimWrapperDict) else {"": optim_wrapper}


def _saved_groups(checkpoint: dict, name: str) -> list[dict]:
    """The checkpoint's parameter groups of an optimizer, the base setting (of no parameter) last if there is one."""
    saved = checkpoint["optimizer"][name] if name else checkpoint["optimizer"]
    base = saved.get("base_param_settings")
    return saved["param_groups"] + ([base] if base else [])


def _check_groups(optim_wrapper: OptimWrapper, checkpoint: dict, changes: Changes) -> None:
    for key, (old, new) in changes.under("optim_wrapper").items():
        if key.endswith("optimizer.type") and str(old).split(".")[-1] != str(new).split(".")[-1]:
            raise UserError(f"{key} was {old} and is {new} now, whose state is another: keep {old}, or {_INSTEAD}")
    wrappers = _wrappers(optim_wrapper)
    saved = checkpoint["optimizer"]
    if "" not in wrappers and set(wrappers) != set(saved) or "" in wrappers and "param_groups" not in saved:
        raise UserError(f"the config has optimizers of other names than the checkpoint: keep them, or {_INSTEAD}")
    for name, wrapper in wrappers.items():
        before = [len(group["params"]) for group in _saved_groups(checkpoint, name)]
        now = [len(group["params"]) for group in wrapper.param_groups]
        if before != now:
            raise UserError(
                f"the optimizer has {len(now)} parameter groups of {sum(now)} tensors, in the checkpoint {len(before)} "
                f"of {sum(before)}; paramwise_cfg or what is trained was changed: undo it, or {_INSTEAD}"
            )


def _fit_moments(optim_wrapper: OptimWrapper, checkpoint: dict) -> None:
    """Give moments their parameters' shapes where axes of length 1 differ: alpha was (C_out, 1, 1, 1) in older ones."""
    for name, wrapper in _wrappers(optim_wrapper).items():
        saved = checkpoint["optimizer"][name] if name else checkpoint["optimizer"]
        places = [place for group in saved["param_groups"] for place in group["params"]]
        parameters = [parameter for group in wrapper.optimizer.param_groups for parameter in group["params"]]
        for place, parameter in zip(places, parameters, strict=True):
            moments = saved["state"].get(place, {})
            for key, value in moments.items():
                if isinstance(value, Tensor) and value.dim() and _long_axes(value) == _long_axes(parameter):
                    moments[key] = value.reshape(parameter.shape)


def _long_axes(tensor: Tensor) -> list[int]:
    return [length for length in tensor.shape if length > 1]


def _names(wrapper: OptimWrapper, changes: Changes) -> set[str]:
    """Keys of parameter groups that a config sets; others may be what an optimizer has learnt by itself."""
    given = {key.split("optimizer.", 1)[1].split(".")[0] for key in changes.keys if "optimizer." in key}
    scheduled = {key for group in wrapper.param_groups for key in group if key.startswith("initial_")}
    return _ALWAYS | given | scheduled


def _settings_differ(runner, checkpoint: dict, changes: Changes) -> bool:
    for name, wrapper in _wrappers(runner.optim_wrapper).items():
        keys = _names(wrapper, changes)
        for saved, new in zip(_saved_groups(checkpoint, name), wrapper.param_groups, strict=True):
            # a scheduler moves these; what it started from is kept beside them
            moved = {key.removeprefix("initial_") for key in (*saved, *new) if key.startswith("initial_")}
            moved |= {"betas"} if "momentum" in moved else set()
            if any(not _equal(saved.get(key), new.get(key)) for key in keys - moved):
                return True
            if any(not _equal(saved.get(f"initial_{key}"), new.get(f"initial_{key}")) for key in moved):
                return True
    saved_schedules = _by_name(checkpoint.get("param_schedulers"))
    schedules = _by_name(runner.param_schedulers)
    if set(saved_schedules) != set(schedules):
        return True
    return any(
        not _same_schedule(saved, None if now is None else now.state_dict())
        for name, listed in schedules.items()
        for saved, now in zip_longest(saved_schedules[name], listed)
    )


def _same_schedule(saved: dict | None, now: dict | None) -> bool:
    if saved is None or now is None:
        return False
    keys = (saved.keys() | now.keys()) - _PROGRESS
    return all(key in saved and key in now and _equal(saved[key], now[key]) for key in keys)


def _by_name(schedules: Any) -> dict[str, list]:
    if isinstance(schedules, dict):
        return schedules
    return {"": schedules} if schedules else {}


def _go_through(runner, meta: dict) -> None:
    """Take the config's schedules through the steps that are done, in the order of training."""
    listed = [schedule for schedules in _by_name(runner.param_schedulers).values() for schedule in schedules]
    in_iterations = [schedule for schedule in listed if not schedule.by_epoch]
    in_epochs = [schedule for schedule in listed if schedule.by_epoch]
    by_iteration = isinstance(runner.train_loop, IterBasedTrainLoop)
    length, epochs = len(runner.train_dataloader), 0 if by_iteration else meta["epoch"]
    with warnings.catch_warnings():  # torch's rule, an optimizer's step before the schedule's, is meant for training
        warnings.filterwarnings("ignore", message=r"Detected call of `scheduler.step\(\)`")
        for step in range(1, meta["iter"] + 1):
            _step(in_iterations)
            if step % length == 0 and step // length <= epochs:
                _step(in_epochs)


def _step(schedules: Iterable) -> None:
    for schedule in schedules:
        schedule.step()


def _put_settings(runner, checkpoint: dict, changes: Changes) -> None:
    """Exchange the checkpoint's settings and schedules for the config's, as they are now."""
    for name, wrapper in _wrappers(runner.optim_wrapper).items():
        keys = _names(wrapper, changes)
        for saved, new in zip(_saved_groups(checkpoint, name), wrapper.param_groups, strict=True):
            for key in keys | {key for key in saved if key.startswith("initial_")}:
                if key in new:
                    saved[key] = new[key]
                else:
                    saved.pop(key, None)
    schedules = runner.param_schedulers
    if isinstance(schedules, dict):
        checkpoint["param_schedulers"] = {name: [s.state_dict() for s in listed] for name, listed in schedules.items()}
    elif schedules is not None:
        checkpoint["param_schedulers"] = [schedule.state_dict() for schedule in schedules]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _about_seed(runner, meta: dict) -> str:
    asked, kept = (runner.cfg.get("randomness") or {}).get("seed"), meta.get("seed")
    if asked is None or kept is None or asked == kept:
        return ""
    return f"randomness.seed={asked} has no effect, a resumed run keeps its seed {kept}; start anew for another"


def _say(runner, changes: Changes, said: list[str]) -> None:
    listed = changes.listed(limit=8)
    if listed:
        said.insert(0, f"the config was changed since the checkpoint was saved: {listed}")
    if said:
        print_log(f"--resume: {'; '.join(said)}", "current")


def _rates(runner) -> str:
    rates: Mapping[str, list[float]] = runner.optim_wrapper.get_lr()
    shown = {name: values[0] for name, values in rates.items() if values}
    shown = {"lr": shown["base_lr"]} if "base_lr" in shown else shown
    return ", ".join(f"{rate:.4g}" if len(shown) == 1 else f"{rate:.4g} ({name})" for name, rate in shown.items())


def _stays_zero(runner) -> bool:
    groups = [group for wrapper in _wrappers(runner.optim_wrapper).values() for group in wrapper.optimizer.param_groups]
    schedules = [schedule for listed in _by_name(runner.param_schedulers).values() for schedule in listed]
    over = all(schedule.last_step >= schedule.end - schedule.begin - 1 for schedule in schedules)
    return over and all(float(group["lr"]) == 0 for group in groups)
