"""From a command line to mmengine's runner: config, data and checkpoint are checked before anything runs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import all_gather_object
from mmengine.logging import print_log
from mmengine.registry import METRICS, RUNNERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from rebnn_mm.errors import MissingFileError, UserError
from rebnn_mm.files.atomic import check_results_folder
from rebnn_mm.hooks import ResumeHook
from rebnn_mm.hooks.attach import unwrapped
from rebnn_mm.hooks.work_dir import newest_checkpoint
from rebnn_mm.integrations.build import building, read_config
from rebnn_mm.integrations.checkpoint import is_packed_file, is_program, load_weights
from rebnn_mm.integrations.config import read_words
from rebnn_mm.integrations.origin import load_trained
from rebnn_mm.kept_memory import keep_freed_memory
from rebnn_mm.workflows.heads import check_heads
from rebnn_mm.workflows.precheck import check_launcher, check_loaders, check_loop, check_strategy, explain_batch_of_one


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that training and testing share, named as in OpenMMLab's tools."""
    parser.add_argument("--work-dir", help="checkpoints and logs; default: work_dirs/<config name>")
    parser.add_argument("--cfg-options", nargs="+", action="extend", metavar="KEY=VALUE", help="override the config")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help="set by torch's launcher")


def read_run_config(args: argparse.Namespace) -> Config:
    """The config file with what :func:`add_run_arguments` took put in; the process is made ready for a run of it.

    Raises:
        ValueError: As :func:`rebnn_mm.integrations.build.read_config`; an option that is no ``KEY=VALUE``; a launcher
            that has not started this process.
    """
    check_launcher(args.launcher)
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    keep_freed_memory()
    cfg = read_config(args.config, read_words(args.cfg_options))
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / Path(args.config).stem)
    return cfg


def use_amp(cfg: Config) -> None:
    """Switch the optim wrapper to automatic mixed precision with a dynamic loss scale.

    Raises:
        ValueError: The config has a wrapper of another kind.
    """
    kind = cfg.optim_wrapper.get("type", "OptimWrapper")
    if kind not in ("OptimWrapper", "AmpOptimWrapper"):
        raise UserError(f"--amp cannot replace optim_wrapper.type={kind!r}; set mixed precision in the config")
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.setdefault("loss_scale", "dynamic")


def use_auto_scale_lr(cfg: Config) -> None:
    """Let the runner scale the learning rate by batch size / base batch size.

    Raises:
        ValueError: The config does not say for which batch size its learning rate is meant.
    """
    if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
        raise UserError("--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config")
    cfg.auto_scale_lr.enable = True


def use_resume(cfg: Config, path: str) -> None:
    """Go on from the checkpoint ``path``, or from a folder's newest; ``'auto'`` is the work dir's.

    Raises:
        FileNotFoundError: A folder without a checkpoint.
    """
    cfg.resume = True
    if path != "auto":
        cfg.load_from = newest_checkpoint(path) if Path(path).is_dir() else path
        if cfg.load_from is None:
            raise MissingFileError(f"--resume {path}: the folder holds no checkpoint that a training has saved")
        return
    newest = newest_checkpoint(cfg.work_dir)
    if newest is None:
        print_log(f"--resume: {cfg.work_dir} has no checkpoint yet, training starts at its beginning", "current")
        cfg.resume = False
    else:
        # by its path: mmengine takes the one that the work dir had where it began, or the weights of stage one
        cfg.load_from = newest


def use_show_dir(cfg: Config, folder: str) -> None:
    """Write a picture with truth and predictions for every test image into ``folder``, images' subfolders kept.

    Raises:
        ValueError: The config's data are texts.
    """
    if cfg.default_scope == "mmengine":
        raise UserError("--show-dir draws images, and the config's data are texts; --out writes predictions")
    from rebnn_mm.integrations.images import pictures  # noqa: F401  # registers the hook

    # the libraries' own hooks read colour images only, and pictures of equal names overwrite each other
    check_results_folder(folder)
    hooks = [*(cfg.get("custom_hooks") or ()), dict(type="PictureHook", out_dir=os.path.abspath(folder))]
    cfg.custom_hooks = hooks


def build_runner(cfg: Config) -> Runner:
    """Runner of mmengine for ``cfg``.

    Raises:
        ValueError: The config names a type that is not registered, has loader settings that exclude each other, or a
            strategy that splits weights over processes.
    """
    check_loaders(cfg)
    check_strategy(cfg)
    check_results_folder(cfg.work_dir)
    return building(lambda: RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg))


def train(cfg: Config) -> Runner:
    """Train ``cfg``: data sets and checkpoints are read first, so that what is wrong with them shows at once.

    Raises:
        ValueError, OSError: A data set, an annotation or a checkpoint that cannot be used.
        FloatingPointError: The loss became NaN or Inf.
        KeyboardInterrupt: Ctrl-C; the message says how to go on.
    """
    if cfg.get("resume") and not cfg.get("load_from"):  # asked for by the config itself
        use_resume(cfg, "auto")
    runner = build_runner(cfg)
    _check_ranks_agree(cfg)
    _build_loops(runner, "train_loop", "val_loop")
    check_heads(unwrapped(runner.model), _datasets(runner, "train", "val"), str(cfg.default_scope))
    if cfg.get("resume"):
        path = cfg.load_from
        checkpoint = load_weights(path)
        load_trained(unwrapped(runner.model), checkpoint, path, cfg)
        absent = [key for key in ("meta", "optimizer", "message_hub") if key not in checkpoint]
        if absent:
            raise UserError(
                f"checkpoint {path} cannot be resumed from, it lacks {', '.join(absent)}: start from its weights with "
                "--cfg-options load_from=PATH, without --resume"
            )
        if not any(isinstance(hook, ResumeHook) for hook in runner.hooks):
            runner.register_hook(ResumeHook())
    elif cfg.get("load_from"):
        _check_initial_weights(unwrapped(runner.model), cfg.load_from)
    try:
        runner.train()
    except ValueError as error:
        explain_batch_of_one(error)
        raise
    except KeyboardInterrupt:
        where = f"stopped in epoch {runner.epoch + 1}, after iteration {runner.iter}"
        raise KeyboardInterrupt(f"{where}; {_how_to_go_on(runner, cfg)}") from None
    return runner


def _how_to_go_on(runner: Runner, cfg: Config) -> str:
    """What is left of a training that was stopped; a work dir may hold checkpoints of another run, too."""
    saved = [str(hook.last_ckpt) for hook in runner.hooks if getattr(hook, "last_ckpt", None)]
    if any("://" in path or Path(path).exists() for path in saved):
        return f"checkpoints are in {runner.work_dir}, --resume goes on from the newest"
    if cfg.get("resume"):
        return f"no checkpoint was saved since {cfg.load_from}, --resume {cfg.load_from} goes on from it again"
    return "no checkpoint was saved yet, the same command without --resume begins again"


def test(cfg: Config, checkpoint: str, out: str | None = None, exact: bool = True) -> dict[str, float]:
    """Evaluate ``checkpoint`` with the config's metric; returns the metrics.

    Args:
        cfg: From :func:`read_run_config`.
        checkpoint: Path of the weights, which must be those of the config's model, all of them; or of its packed
            ``.rebnn`` file, or of an ExecuTorch program (``.pte``), which run on the CPU.
        out: Write all predictions to this ``.pkl`` file.
        exact: False loads a packed file as :func:`rebnn_mm.deploy.load_model` does with ``exact=False``.

    Raises:
        ValueError, OSError: A data set or checkpoint that cannot be used.
    """
    if not exact and not is_packed_file(checkpoint):
        raise UserError(f"--inexact is for .rebnn files, {checkpoint} is a checkpoint: leave it out, or export first")
    if out and not out.endswith((".pkl", ".pickle")):
        raise UserError(f"--out {out}: predictions are written as .pkl")
    if out:
        check_results_folder(Path(out).parent)
    cfg.resume = False
    if is_packed_file(checkpoint):
        runner = _runner_around(cfg, checkpoint, dict(type="PackedModel", exact=exact))
    elif is_program(checkpoint):
        runner = _runner_around(cfg, checkpoint, dict(type="ProgramModel"))
    else:
        weights = load_weights(checkpoint)  # first: the cheapest check of what a user may get wrong
        cfg.load_from = checkpoint
        runner = build_runner(cfg)
        load_trained(unwrapped(runner.model), weights, checkpoint, cfg)
    _build_loops(runner, "test_loop")
    check_heads(unwrapped(runner.model), _datasets(runner, "test"), str(cfg.default_scope))
    if out:
        runner.test_evaluator.metrics.append(_dump_results(cfg, out))
    return runner.test()


def _runner_around(cfg: Config, path: str, model: dict[str, Any]) -> Runner:
    """A runner around the packed model, or the program, of ``path``."""
    from rebnn_mm.integrations import packed, programs  # noqa: F401  # registers PackedModel and ProgramModel

    if get_device() != "cpu":
        raise UserError(f"{path} runs on the CPU, and mmengine takes {get_device()!r}: set CUDA_VISIBLE_DEVICES=-1")
    cfg.load_from = None
    # the runner writes its config into the work dir: under another name than that of the training, which may lie there
    name = Path(cfg.filename or "config.py")
    cfg = Config(cfg.to_dict(), cfg.text, str(name.with_stem(f"{name.stem}_{model['type'].lower()}")))
    cfg.model = dict(**model, path=path, config=cfg.to_dict())
    cfg.pop("data_preprocessor", None)  # it is in the model; the runner would hand it over to its type
    return build_runner(cfg)


def _check_ranks_agree(cfg: Config) -> None:
    """Refuse ranks that would go on from different checkpoints, as with a work dir on each machine's own disk."""
    starts = all_gather_object((bool(cfg.get("resume")), cfg.get("load_from")))
    for rank, start in enumerate(starts):
        if start != starts[0]:
            said = [
                f"rank {n} {f'goes on from {path}' if resume else 'starts anew'}"
                for n, (resume, path) in ((0, starts[0]), (rank, start))
            ]
            raise UserError(
                f"{said[0]}, {said[1]}: the work dir must be one folder that all machines share, or give all of them "
                "the same --resume CHECKPOINT"
            )


def _build_loops(runner: Runner, *names: str) -> None:
    for name in names:  # a property, whose first reading builds the loop with its data set
        check_loop(building(lambda: getattr(runner, name)))  # noqa: B023  # called at once


def _datasets(runner: Runner, *splits: str) -> dict[str, Any]:
    """Data sets of the loops that were built."""
    loops = {split: getattr(runner, f"{split}_loop") for split in splits}  # a run may go without validation
    loaders = {split: getattr(loop, "dataloader", None) for split, loop in loops.items()}
    return {split: loader.dataset for split, loader in loaders.items() if isinstance(loader, DataLoader)}


def _dump_results(cfg: Config, out: str) -> Any:
    kind = "DumpDetResults" if cfg.default_scope == "mmdet" else "DumpResults"
    return METRICS.build(dict(type=kind, out_file_path=out))


def _check_initial_weights(model: nn.Module, path: str) -> None:
    """Refuse ``load_from`` that cannot be read or has nothing for this model; a part is enough (stage one)."""
    if "://" in path:
        return
    names = {name.removeprefix("module.") for name in load_weights(path)["state_dict"]}
    if not names & set(model.state_dict()):
        raise UserError(f"load_from={path}: not one of its {len(names)} tensors belongs to the config's model")
