"""One config on task after task of GLUE, and the table of what came out."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from rebnn_mm.bert import TASKS, find_task
from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.integrations.config import scope_of
from rebnn_mm.workflows import launch
from rebnn_mm.workflows.stages import is_finished

Scores = dict[str, float]


def read_tasks(args: argparse.Namespace) -> dict[str, Config]:
    """Read ``args.config`` once for each of ``args.tasks``, its work dir being ``<work dir>/<task>``.

    All data sets are read, so that a missing or malformed file shows before the first task has trained.

    Raises:
        ValueError: A config of another kind, an unknown task, a malformed file.
        FileNotFoundError: A task's files are not there.
    """
    configs = {}
    for name in args.tasks:
        find_task(name)
        own = copy.copy(args)
        own.cfg_options = [*(args.cfg_options or ()), f"task={name}"]
        cfg = launch.read_run_config(own)
        if scope_of(cfg) != "mmengine":
            raise UserError(f"config {args.config} is no BERT: take one as configs/bert_rebnn_base_glue_rte.py")
        cfg.work_dir = str(Path(cfg.work_dir) / name)
        # mmengine keeps messages by experiment and second: two short tasks would share their best score
        cfg.experiment_name = f"{Path(args.config).stem}_{name}"
        for loader in (cfg.train_dataloader, cfg.val_dataloader):
            len(DATASETS.build(loader.dataset))
        configs[name] = cfg
    return configs


def run_tasks(
    configs: Mapping[str, Config], resume: bool = False, submission_dir: str | None = None
) -> dict[str, dict[str, Scores]]:
    """Train each task and evaluate its best checkpoint on every development split.

    Args:
        configs: From :func:`read_tasks`.
        resume: Skip what is finished, go on where training stopped.
        submission_dir: Predict the test splits, too, and write the files of GLUE's server there.

    Returns:
        Task -> development split -> metrics in percent.

    Raises:
        ValueError, OSError, FloatingPointError, KeyboardInterrupt: As :func:`rebnn_mm.workflows.launch.train`.
    """
    results = {}
    for name, cfg in configs.items():
        if resume and is_finished(cfg):
            print_log(f"{name} is finished: {cfg.work_dir}", "current")
        else:
            again = copy.deepcopy(cfg)
            if resume:
                launch.use_resume(again, "auto")
            launch.train(again)
        best = best_checkpoint(cfg.work_dir)
        task = find_task(name)
        results[name] = {split: evaluate(cfg, best, split) for split in task.dev}
        for split in task.test if submission_dir else ():
            evaluate(cfg, best, split, submission_dir)
    return results


def evaluate(cfg: Config, checkpoint: Path, split: str, submission_dir: str | None = None) -> Scores:
    """Metrics of a checkpoint on a split, without their prefix; predictions go to ``submission_dir``."""
    cfg = copy.deepcopy(cfg)
    cfg.test_dataloader.dataset.split = split
    cfg.test_evaluator.submission_dir = submission_dir
    metrics = launch.test(cfg, str(checkpoint))
    return {name.removeprefix("glue/"): value for name, value in metrics.items()}


def best_checkpoint(work_dir: str | Path) -> Path:
    """The checkpoint of the best validation.

    Raises:
        FileNotFoundError: There is none.
    """
    found = sorted(Path(work_dir).glob("best_glue_score_epoch_*.pth"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise MissingFileError(f"{work_dir} has no best_glue_score_epoch_*.pth: train first, with save_best")
    return found[-1]


def format_glue(results: Mapping[str, Mapping[str, Scores]]) -> str:
    """Text table: a line a task, splits side by side, and the mean of the tasks' scores.

    WNLI does not count in the mean, as in BERT's and in later papers; MNLI's two splits count as one task.
    """
    lines = [f"{'task':6} {'score':>7}  metrics", "-" * 60]
    means = {}
    for name in sorted(results, key=list(TASKS).index):
        means[name] = _mean([scores["score"] for scores in results[name].values()])
        parts = []
        for split, scores in results[name].items():
            said = ", ".join(f"{metric} {scores[metric]:.2f}" for metric in TASKS[name].metrics)
            parts.append(said if split == "dev" else f"{split.removeprefix('dev_')}: {said}")
        lines.append(f"{name:6} {means[name]:7.2f}  {'; '.join(parts)}")
    counted = [value for name, value in means.items() if name != "wnli"]
    if counted:
        lines.append(f"{'mean':6} {_mean(counted):7.2f}  of {len(counted)} tasks, development sets, in percent")
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
