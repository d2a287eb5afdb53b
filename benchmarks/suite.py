"""All benchmarks behind docs/performance.md, each in a process of its own, one after the other.

python benchmarks/suite.py [--onnxruntime] [--openvino] [--lce PYTHON] [--rounds 21]
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rebnn_mm.integrations.build import build_model, read_config
from rebnn_mm.workflows.export import export_config

ROOT = Path(__file__).resolve().parents[1]
CLASSIFIER = "configs/resnet18_rebnn_imagenet.py"
DETECTOR = "configs/faster_rcnn_rebnn_r18_voc.py"
SHARED_FCS = {
    "model.roi_head.bbox_head.type": "Binarized",
    "model.roi_head.bbox_head.base": "Shared2FCBBoxHead",
    "model.roi_head.bbox_head.binarize.include": "shared_fcs",
}
FEWER_PROPOSALS = {"model.test_cfg.rpn.max_per_img": 300}
DETECTORS: dict[str, dict[str, Any]] = {
    "1,000 proposals, as configured": {},
    "300 proposals": FEWER_PROPOSALS,
    "1,000 proposals, shared linear layers 1-bit too": SHARED_FCS,
    "300 proposals, shared linear layers 1-bit too": {**FEWER_PROPOSALS, **SHARED_FCS},
}


@dataclass(frozen=True)
class Step:
    """One benchmark: what it shows, the command, and what the environment adds for it."""

    title: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


def run_suite(rounds: int = 21, onnxruntime: bool = False, lce: str | None = None, openvino: bool = False) -> int:
    """Run everything, print as it comes; the number of steps that failed.

    Args:
        rounds: Of the layers and the classifier; detectors, a second a call, take a third as many.
        onnxruntime: Compare with onnxruntime of this interpreter.
        lce: An interpreter that has larq-compute-engine, to compare with it.
        openvino: Compare with this interpreter's OpenVINO, and its own 1-bit kernels.
    """
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for step in steps(Path(folder), rounds, onnxruntime, lce, openvino):
            shown = shlex.join(step.command).replace(sys.executable, "python").replace(folder, "DIR")
            prefix = "".join(f"{key}={shlex.quote(value)} " for key, value in step.environment.items())
            print(f"\n## {step.title}\n\n    {prefix}{shown}\n", flush=True)
            done = subprocess.run(step.command, env={**os.environ, **step.environment}, cwd=ROOT)
            if done.returncode:
                failed += 1
                print(f"failed with exit code {done.returncode}", flush=True)
    return failed


def steps(folder: Path, rounds: int, onnxruntime: bool, lce: str | None, openvino: bool = False) -> Iterator[Step]:
    """The benchmarks in turn; files that one needs are written to ``folder`` when it is reached."""
    python = sys.executable
    layers = (python, "benchmarks/layers.py", "--rounds", str(rounds))
    peers = (*(("--onnx", python) if onnxruntime else ()), *(("--lce", lce) if lce else ()))
    yield Step("Layers", layers + peers)
    yield Step("Layers, AVX2 on both sides", layers, {"ONEDNN_MAX_CPU_ISA": "AVX2", "REBNN_MM_ISA": "avx2"})

    if openvino:
        own = (python, "benchmarks/openvino_peer.py", "--rounds", str(rounds))
        yield Step("OpenVINO's 1-bit kernels, layers and ResNet-18", own)

    benchmark = (python, "tools/benchmark.py")
    file, config, checkpoint = _untrained(CLASSIFIER, folder / "classifier", {})
    how = (*(("--onnxruntime",) if onnxruntime else ()), "--threads", "1", "2", "--rounds", str(rounds))
    beside_lce = (python, "benchmarks/classifier.py", file, config, checkpoint, "--lce", str(lce))
    yield Step("ResNet-18", (*(beside_lce if lce else (*benchmark, file, "--compare", config, checkpoint)), *how))

    # untrained detectors find as many boxes as they may, the most that any image costs
    size = ("--shape", "608", "800", "--rounds", str(max(3, rounds // 3)))
    for number, (what, options) in enumerate(DETECTORS.items()):
        file, config, checkpoint = _untrained(DETECTOR, folder / f"detector{number}", options)
        changes = ("--cfg-options", *(f"{key}={value}" for key, value in options.items())) if options else ()
        own = (*benchmark, file, "--compare", config, checkpoint, *changes)
        yield Step(f"Faster R-CNN R18, {what}", (*own, *size))


def _untrained(config: str, path: Path, options: dict[str, Any]) -> tuple[str, str, str]:
    """Export ``config`` with seeded random weights: file, config and checkpoint."""
    print(f"packing {config} ...", file=sys.stderr, flush=True)  # for half a minute nothing else would be said
    cfg = read_config(ROOT / config, dict(options))
    torch.manual_seed(0)
    checkpoint, packed = path.with_suffix(".pth"), path.with_suffix(".rebnn")
    torch.save(dict(state_dict=build_model(cfg).state_dict()), checkpoint)
    export_config(cfg, checkpoint, packed, verify=False)
    return str(packed), config, str(checkpoint)


def main() -> None:
    """Run everything; the exit status is the number of steps that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnxruntime", action="store_true", help="compare with this interpreter's onnxruntime")
    parser.add_argument("--openvino", action="store_true", help="compare with this interpreter's OpenVINO")
    parser.add_argument("--lce", metavar="PYTHON", help="interpreter with larq-compute-engine: compare with it")
    parser.add_argument("--rounds", type=int, default=21, help="detectors take a third as many; default: 21")
    args = parser.parse_args()
    sys.exit(run_suite(args.rounds, args.onnxruntime, args.lce, args.openvino))


if __name__ == "__main__":
    main()
