"""Take one stock config through all stages, in a process of its own; ``sweep.py`` starts it.

python benchmarks/sweep_model.py mmdet retinanet work_dirs/sweep/mmdet.jsonl [--time] [--memory GB]

Each stage adds one JSON line to the file as soon as it is over, so a process that is killed leaves what it reached.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from sweep_calls import (
    binary_layers,
    binary_share,
    export,
    export_unchecked,
    in_turn,
    load,
    make_binary,
    takes_size,
    twin,
)
from sweep_configs import OURS, STOCK, candidates, configs_root, read
from sweep_inputs import Inputs, check_input, image, inputs_of, normalized
from sweep_reasons import FAULT, reason_of
from sweep_steps import OneSided, built, initialise, run, train_steps
from torch import nn

TRIES = 4  # configs of a folder, until one builds
TIMED_SIZE = {"mmpretrain": 224, "mmdet": 256}


class Subject:
    """One architecture on its way through the stages.

    Attributes:
        cfg: The config that was taken.
        model: The stock model, and from stage ``binarize`` on the 1-bit one.
        stock: The stock model, to be timed; None without ``--time``.
        options: Inputs that the stock model takes, the smallest first.
        trained_stock: Names of parameters that get a gradient in the stock model; None if it does not train here.
        rule: Arguments of ``binarize``; empty for its defaults.
        file: The exported file.
    """

    def __init__(self, library: str, folder: str, timed: bool, rule: dict[str, Any], workspace: Path) -> None:
        self.library, self.folder, self.timed, self.rule = library, folder, timed, rule
        self.cfg: Config
        self.model: nn.Module
        self.options: list[Inputs] = []
        self.stock: nn.Module | None = None
        self.trained_stock: set[str] | None = None
        self.file = workspace / "model.rebnn"

    def build(self) -> dict[str, Any]:
        """The folder's first config that can be built and run; if none can, the first one's reason counts."""
        errors = []
        for path in candidates(self.library, self.folder)[:TRIES]:
            try:
                return dict(config=path.stem, passed_over=len(errors), **self._take(read(path)))
            except Exception as error:  # any reason is a result: the next config may do
                errors.append(error)
        raise errors[0]

    def _take(self, cfg: Config) -> dict[str, Any]:
        """Build the stock model and choose its inputs: the smallest that it trains on, else that it runs on."""
        self.cfg = cfg
        cfg.setdefault("default_scope", self.library)  # a few have none
        init_default_scope(cfg.default_scope)
        check_input(cfg)
        self.model = twin(built(cfg)) if self.library == OURS else built(cfg)
        initialise(self.model)
        options = list(inputs_of(self.model, cfg))
        failed: dict[str, Any] | None = None
        for index, inputs in enumerate(options):
            try:
                self.trained_stock = train_steps(self.model, inputs)[1]
            except Exception as error:  # a larger one may do
                failed = reason_of(error, stock=True)  # that of the largest counts
                gc.collect()  # its frames hold a whole graph
                continue
            self.options = [option.usable(self.model) for option in options[index:][:2]]
            return dict(size=inputs.size, parts=list(self.options[0].parts), stock_training=None)
        self.trained_stock = None
        self.options = [options[-1].usable(self.model)]
        return dict(size=options[-1].size, parts=list(self.options[0].parts), stock_training=failed)

    @property
    def inputs(self) -> Inputs:
        """What the stock model takes."""
        return self.options[0]

    def binarize(self) -> dict[str, Any]:
        """Build it anew, make it 1-bit by the rule, and initialise it, in the order of a runner."""
        self.stock = self.model if self.timed else None
        self.model = built(self.cfg)
        total = sum(p.numel() for p in self.model.parameters())
        kept = {} if self.library == OURS else make_binary(self.model, self.rule).kept
        layers = binary_layers(self.model)
        found = dict(
            layers=len(layers),
            kept=dict(Counter(kept.values())),
            weights=sum(layer.weight.numel() for layer in layers.values()) / total,
            bytes_stock=total * 4,
        )
        initialise(self.model)
        return found

    def train(self) -> dict[str, Any]:
        """A training step on the batch that the stock model was trained on."""
        if self.trained_stock is None:
            return dict(skipped="the stock model does not train here")
        trained: set[str] = set()
        # on a map of one pixel a norm leaves no gradient, and a sampler may pass a level by: try others then
        for seed, inputs in enumerate(2 * self.options):
            watch = OneSided(self.model)
            try:
                loss, now = train_steps(self.model, inputs, seed)
            finally:
                watch.remove()
            trained |= now
            layers = binary_layers(self.model)
            frozen = [name for name, layer in layers.items() if not layer.weight.requires_grad]
            idle = [name for name in layers if f"{name}.weight" not in trained and name not in frozen]
            stock = [name for name in idle if f"{name}.weight" not in self.trained_stock]
            ours = [name for name in idle if name not in stock]
            if not ours:
                break
        return dict(loss=loss, frozen=frozen, idle_in_stock=stock, idle=ours, one_sided=watch.names())

    def forward(self) -> dict[str, Any]:
        """A forward in eval mode."""
        outputs = run(self.model, self.inputs)
        return dict(finite=all(bool(torch.isfinite(x).all()) for x in outputs if x.is_floating_point()))

    def export(self) -> dict[str, Any]:
        """Write the file and compare."""
        picture = image(self.inputs.size, self.inputs.channels)
        found = export(self.model, self.file, picture, self.inputs)
        return dict(found, bytes_packed=self.file.stat().st_size)

    def operations(self) -> dict[str, Any]:
        """Share of multiply-accumulates that are 1-bit, at the size that is timed."""
        size = self._timed_size()
        return dict(
            operations=binary_share(self.model, lambda model: run(model, replace(self.inputs, size=size))), at=size
        )

    def time(self) -> dict[str, Any]:
        """Packed features or logits against the stock model's, in turn, one thread."""
        if not self.file.is_file() or self.stock is None:
            return dict(skipped="no file")
        size = self._timed_size()
        batch = normalized(image(size, self.inputs.channels))
        packed = self._packed(size)
        models = dict(packed=packed, float=self.stock)
        for model in models.values():
            model.eval()
        calls = {name: lambda model=model: self.inputs.timed(model, batch) for name, model in models.items()}
        return dict(at=size, load=round(os.getloadavg()[0], 1), **in_turn(calls))

    def _packed(self, size: int) -> nn.Module:
        """The file's model; one whose graph is for the small images of the comparison is exported anew for ``size``."""
        packed = load(self.file, self.model)
        if not takes_size(packed, size):
            export_unchecked(self.model, self.file, replace(self.inputs, size=size))
            packed = load(self.file, self.model)
        return packed

    def _timed_size(self) -> int:
        self.model.eval()
        for size in (max(TIMED_SIZE[self.cfg.default_scope], self.inputs.size), self.inputs.size):
            try:
                with torch.no_grad():
                    self.inputs.features(self.model, normalized(image(size, self.inputs.channels)))
                return size
            except Exception:  # a size that this architecture does not take
                continue
        return self.inputs.size


def main() -> None:
    """Go through the stages; a failure of one does not end those that do not build on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--binarize", type=json.loads, default={}, help="arguments of binarize, as JSON")
    parser.add_argument("--memory", type=float, default=8, help="GB that the process may allocate")
    args = parser.parse_args()
    limit = int(args.memory * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the command that started this
    torch.set_num_threads(1)
    out = args.out.resolve()
    os.chdir(configs_root(args.library).parent)  # a few configs name others by 'configs/...'
    for library in STOCK if args.library == OURS else (args.library,):
        __import__(f"{library}.utils").utils.register_all_modules(init_default_scope=False)
    with tempfile.TemporaryDirectory() as workspace:
        subject = Subject(args.library, args.folder, args.time, args.binarize, Path(workspace))
        stages = ["build", "binarize", "train", "forward", "export", "operations", *(["time"] if args.time else [])]
        for stage in stages:
            line: dict[str, Any] = dict(folder=args.folder, stage=stage, ok=True)
            start = time.process_time()
            try:
                line.update(getattr(subject, stage)())
            except Exception as error:  # every failure is a result
                line.update(ok=False, **reason_of(error, stock=stage == "build"))
                if line["kind"] == FAULT:
                    line["traceback"] = traceback.format_exc()[-3000:]
            line["seconds"] = round(time.process_time() - start, 1)
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            if not line["ok"] and stage in ("build", "binarize"):
                break


if __name__ == "__main__":
    main()
