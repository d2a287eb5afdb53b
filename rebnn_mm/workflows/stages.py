"""Train one config after the other, each from the weights of the one before, which may also be its teacher."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import barrier
from mmengine.logging import print_log

from rebnn_mm.errors import UserError
from rebnn_mm.hooks.work_dir import newest_checkpoint
from rebnn_mm.integrations.build import build_model
from rebnn_mm.integrations.checkpoint import load_weights
from rebnn_mm.integrations.config import find_config
from rebnn_mm.workflows import launch


def read_stages(args: argparse.Namespace) -> list[Config]:
    """Read ``args.configs`` with the options of :func:`rebnn_mm.workflows.launch.add_run_arguments` in each of them.

    ``--work-dir DIR`` gives every stage a folder ``DIR/<config name>``; without it they are where ``tools/train.py``
    puts them. Every model is built once, its teacher too, so that a mistake in stage two shows before stage one
    has run for days; a teacher that is an earlier stage has no weights yet.

    Raises:
        ValueError: Two configs of one name, which would share a work dir, or a config that cannot be built.
        FileNotFoundError: A config or a teacher's checkpoint is not there.
    """
    names = [Path(path).stem for path in args.configs]
    if len(set(names)) < len(names):
        raise UserError(f"stages {', '.join(names)}: their names must differ, each is the name of a work dir")
    stages: list[Config] = []
    for path, name in zip(args.configs, names, strict=True):
        own = copy.copy(args)
        own.config, own.work_dir = path, str(Path(args.work_dir) / name) if args.work_dir else None
        cfg = launch.read_run_config(own)
        model = build_model(cfg)
        if _teacher_among(stages, cfg) is None:
            getattr(model, "teacher", None)  # reading it loads its weights
        stages.append(cfg)
    return stages


def train_stages(stages: Sequence[Config], resume: bool = False) -> None:
    """Train ``stages`` in order; every stage but the first starts from the last checkpoint of the one before.

    A stage whose ``model.teacher.config`` is the config of an earlier stage is taught by that one, with the options it
    was trained with, by its newest checkpoint: a chain of teachers.

    Args:
        stages: From :func:`read_stages`; ``load_from`` of the first is kept, that of the others is set here.
        resume: Skip what is finished and go on where training stopped; without it everything starts anew. A stage
            whose checkpoints are older than the stage before it (which was trained anew since) starts anew too.

    Raises:
        ValueError, OSError, FloatingPointError: As :func:`rebnn_mm.workflows.launch.train`.
        KeyboardInterrupt: Ctrl-C; the message says how to go on.
    """
    previous: Config | None = None
    for number, cfg in enumerate(stages, start=1):
        teacher = _teacher_among(stages[: number - 1], cfg)
        where = f"stage {number} of {len(stages)} ({Path(cfg.work_dir).name})"
        if previous is not None:
            cfg.load_from = newest_checkpoint(previous.work_dir)
        goes_on = resume and not _is_older(cfg, previous)
        previous = cfg
        if goes_on and is_finished(cfg):
            print_log(f"{where} is finished: {newest_checkpoint(cfg.work_dir)}", "current")
            continue
        if teacher is not None:
            _be_taught(cfg, teacher)
        if goes_on:
            launch.use_resume(cfg, "auto")
        print_log(f"{where} starts, load_from={cfg.get('load_from')}, resume={bool(cfg.get('resume'))}", "current")
        try:
            launch.train(cfg)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(f"{where}: {stop} when the same command is given again") from None
        barrier()  # the main process writes the checkpoint that all of them read next


def _teacher_among(stages: Sequence[Config], cfg: Config) -> Config | None:
    """The one of ``stages`` whose config file the teacher of ``cfg`` names, if one is."""
    teacher = cfg.model.get("teacher")
    config = teacher.get("config") if isinstance(teacher, dict) else None
    if not isinstance(config, (str, Path)):
        return None
    named = find_config(config).resolve()
    return next((stage for stage in stages if Path(stage.filename).resolve() == named), None)


def _be_taught(cfg: Config, stage: Config) -> None:
    """Make a finished stage, as it was trained, the teacher of ``cfg``."""
    model = copy.deepcopy(stage.model)
    if stage.get("data_preprocessor") is not None:
        model.setdefault("data_preprocessor", copy.deepcopy(stage.data_preprocessor))
    cfg.model.teacher = dict(config=model, checkpoint=newest_checkpoint(stage.work_dir))


def is_finished(cfg: Config) -> bool:
    """Whether the newest checkpoint of the config's work dir is that of its last epoch (or iteration)."""
    meta = _newest_meta(cfg)
    unit = "epoch" if "max_epochs" in cfg.train_cfg else "iter"
    return meta is not None and meta.get(unit, 0) >= cfg.train_cfg[f"max_{unit}s"]


def _is_older(cfg: Config, previous: Config | None) -> bool:
    """Whether what the stage's work dir holds was saved before the stage that it should start from."""
    mine = _newest_meta(cfg)
    before = _newest_meta(previous) if previous is not None else None
    return mine is not None and before is not None and mine.get("time", "") < before.get("time", "")


def _newest_meta(cfg: Config) -> dict[str, Any] | None:
    """What mmengine notes in a checkpoint (epoch, iter, time as sortable text), or None without one."""
    path = newest_checkpoint(cfg.work_dir)
    return None if path is None else load_weights(path).get("meta", {})
