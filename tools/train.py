"""Train a config: python tools/train.py CONFIG."""

import argparse
import os
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train a detector or classifier from its config")
    parser.add_argument("config", help="path of the config file")
    parser.add_argument("--work-dir", help="checkpoints and logs; default work_dirs/<config name>")
    parser.add_argument("--resume", nargs="?", const="auto", help="go on from PATH, or from the work dir's newest")
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision (needs an accelerator)")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale lr by batch size / base batch size")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="overrides: key=value ...")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args


def load_config(args: argparse.Namespace) -> Config:
    """Config file with the command line's choices put in."""
    if not Path(args.config).is_file():
        raise SystemExit(f"no config at {args.config}: give the path of a config file, as configs/*.py")
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / Path(args.config).stem)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if args.amp:
        kind = cfg.optim_wrapper.get("type", "OptimWrapper")
        if kind not in ("OptimWrapper", "AmpOptimWrapper"):
            raise SystemExit(f"--amp cannot replace optim_wrapper.type={kind!r}; set its mixed precision in the config")
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    if args.auto_scale_lr:
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
            raise SystemExit("--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config")
        cfg.auto_scale_lr.enable = True
    if args.resume:
        if args.resume != "auto" and not Path(args.resume).is_file():
            raise SystemExit(f"no checkpoint at {args.resume}; --resume alone takes the newest of the work dir")
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else args.resume
    return cfg


def main() -> None:
    """Build the runner and train; Ctrl-C says how to go on."""
    args = parse_args()
    cfg = load_config(args)
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    try:
        runner.train()
    except KeyboardInterrupt:
        raise SystemExit(
            f"\nstopped at epoch {runner.epoch + 1}, iteration {runner.iter}; checkpoints are in {runner.work_dir}. "
            f"Go on with: python tools/train.py {args.config} --work-dir {runner.work_dir} --resume"
        ) from None


if __name__ == "__main__":
    main()
