"""What only a run knows as a whole, checked before it starts: loaders, and the evaluator against its data set."""

from __future__ import annotations

import os
from typing import Any

from mmengine.config import Config

from rebnn_mm.errors import UserError
from rebnn_mm.integrations.values import LOADERS

# what a launcher leaves in the environment of each process, and how it is started
_LAUNCHERS = {
    "pytorch": (("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"), "torchrun (tools/dist_train.sh CONFIG GPUS)"),
    "slurm": (("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"), "srun (tools/slurm_train.sh)"),
    "mpi": (("OMPI_COMM_WORLD_LOCAL_RANK", "MASTER_ADDR", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), "mpirun"),
}
# in the names of mmengine's strategies, model wrappers and optimizer wrappers
_SPLITS = ("FSDP", "FullySharded", "DeepSpeed", "ColossalAI")
_BATCH_OF_ONE = "Expected more than 1 value per channel"


def check_launcher(name: str) -> None:
    """Refuse a process that is told of a launcher which has not started it.

    Raises:
        UserError: The launcher's environment variables are missing.
    """
    needed, starter = _LAUNCHERS.get(name, ((), ""))
    if missing := [variable for variable in needed if not os.environ.get(variable)]:
        raise UserError(
            f"--launcher {name} without {', '.join(missing)} in the environment: start it with {starter}, or leave "
            "--launcher out for one process"
        )


def check_loaders(cfg: Config) -> None:
    """Refuse loader settings that torch cannot take together.

    Raises:
        ValueError: ``persistent_workers=True`` without workers.
    """
    for name in LOADERS:
        loader = cfg.get(name) or {}
        if loader.get("persistent_workers") and not loader.get("num_workers"):
            raise UserError(
                f"{name} has persistent_workers=True and num_workers=0: there is no worker to keep; set "
                f"{name}.persistent_workers=False"
            )


def check_strategy(cfg: Config) -> None:
    """Refuse strategies that split weights or gradients over processes.

    Raises:
        ValueError: FSDP, DeepSpeed or ColossalAI, as mmengine's strategy, model wrapper or optimizer wrapper.
    """
    for name in ("strategy", "model_wrapper_cfg", "optim_wrapper"):
        kind = str((cfg.get(name) or {}).get("type") or "").split(".")[-1]
        if any(word in kind for word in _SPLITS):
            raise UserError(
                f"{name}.type={kind!r} splits weights or gradients over processes; BalanceHook, OscillationHook and "
                "checkpoints need whole ones. Leave it out: each GPU then has the whole model (DistributedDataParallel,"
                " tools/dist_train.sh CONFIG GPUS; docs/distributed.md)"
            )


def check_loop(loop: Any) -> None:
    """Hold a COCO metric's annotation file against the data set of its loop, before the loop runs.

    Args:
        loop: Of mmengine's runner; one without evaluator, or None, has nothing to check.

    Raises:
        ValueError: The metric reads another file, or one that was mended for the data set only.
    """
    if not hasattr(loop, "evaluator"):
        return
    dataset = loop.dataloader.dataset
    ann_file: str = getattr(dataset, "ann_file", None) or ""
    for metric in loop.evaluator.metrics if ann_file else ():
        other = getattr(metric, "ann_file", None)
        if other and os.path.realpath(other) != os.path.realpath(ann_file):
            raise UserError(
                f"{type(metric).__name__} evaluates against {other}, and the data set is {ann_file}: set ann_file of "
                "val_evaluator (test_evaluator) to the data set's"
            )
        if type(metric).__name__ == "CocoMetric" and getattr(dataset, "mended", None):
            raise UserError(
                f"{dataset.mended[0]}; CocoMetric reads the file as it is: evaluate with type='CheckedCocoMetric', or "
                "correct the file"
            )


def explain_batch_of_one(error: ValueError) -> None:
    """Raise a sentence if a batch of one image met a norm over the batch; return for any other error.

    Raises:
        ValueError: It did.
    """
    if _BATCH_OF_ONE in str(error):
        raise UserError(
            "a batch of one image met a BatchNorm whose map is one pixel, and it needs two values: the last batch of "
            "an epoch is what batch_size leaves; set train_dataloader.drop_last=True, or another batch_size"
        ) from error
