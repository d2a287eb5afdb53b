"""Evaluate a checkpoint: python tools/test.py CONFIG CHECKPOINT."""

import argparse
import os
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint with its config's metric")
    parser.add_argument("config", help="path of the config file")
    parser.add_argument("checkpoint", help="path of the checkpoint")
    parser.add_argument("--out", help="write all predictions to this .pkl file")
    parser.add_argument("--show-dir", help="write pictures with predictions here (detectors)")
    parser.add_argument("--work-dir", help="logs; default work_dirs/<config name>")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="overrides: key=value ...")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    args = parser.parse_args()
    for path in (args.config, args.checkpoint):
        if not Path(path).is_file():
            raise SystemExit(f"no file at {path}: give a config and a checkpoint")
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        raise SystemExit(f"--out {args.out}: predictions are written as .pkl")
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    return args


def load_config(args: argparse.Namespace) -> Config:
    """Config file with the command line's choices put in."""
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / Path(args.config).stem)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    cfg.load_from = args.checkpoint
    if args.show_dir:
        cfg.visualizer.save_dir = args.show_dir
        hook = cfg.default_hooks.setdefault("visualization", dict(type="DetVisualizationHook"))
        hook.update(draw=True, test_out_dir=".", interval=1)
    return cfg


def main() -> None:
    """Build the runner and test."""
    args = parse_args()
    cfg = load_config(args)
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    if args.out:
        from mmdet.evaluation import DumpDetResults

        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    runner.test()


if __name__ == "__main__":
    main()
