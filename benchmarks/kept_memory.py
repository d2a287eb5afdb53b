"""What page faults cost: a training step and packed inference, with glibc by itself and told to keep freed memory.

python benchmarks/kept_memory.py [NAME ...] [--rounds 5] [--steps 10]

NAME is one of benchmarks/training.py's networks, of which the real-valued twin and ReBNN are trained with Adam, or
packed: one image of 224x224 through a packed ResNet-18. Each setting is an environment, read once when a process
starts: every measurement is a process of its own. The settings take turns in every round; one thread. A cell is the
median over rounds: CPU time of a step (with its smallest and largest round), page faults of a step, and the process's
largest resident set.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from training import NETWORKS, REBNN, TWIN, step

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.deploy import export_model, load_model
from rebnn_mm.kept_memory import CHOICES, MMAP_BYTES, TRIM_BYTES
from rebnn_mm.workflows.timing import milliseconds

TRIM = {"MALLOC_TRIM_THRESHOLD_": str(TRIM_BYTES)}
SETTINGS = {
    "glibc by itself": {},
    f"up to {MMAP_BYTES >> 20} MiB kept": {**TRIM, "MALLOC_MMAP_THRESHOLD_": str(MMAP_BYTES)},
    "all kept": {**TRIM, "MALLOC_MMAP_MAX_": "0"},
}
PACKED = "packed"


def main() -> None:
    """Measure in turn, print a table a task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (*NETWORKS, PACKED)
    parser.add_argument("names", nargs="*", default=list(names), metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="timed in each process, after three that do not count")
    parser.add_argument("--step", nargs=2, metavar=("NAME", "CONTESTANT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(measure(*args.step, args.steps)))
        return
    if unknown := set(args.names) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(names)}")
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "m.rebnn"))
        for name in args.names:
            if name == PACKED:
                export_model(ReBNNResNet(18).eval(), file)
            for contestant in (file,) if name == PACKED else (TWIN, REBNN):
                cells = defaultdict(list)
                for _ in range(args.rounds):
                    for setting, environment in SETTINGS.items():
                        cells[setting].append(run(environment, name, contestant, args.steps))
                print_table(PACKED if name == PACKED else f"{name}, {contestant}", cells)


def run(setting: dict[str, str], name: str, contestant: str, steps: int) -> dict[str, float]:
    """What a process of its own measures."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(CHOICES)} | setting
    command = [sys.executable, __file__, "--steps", str(steps), "--step", name, contestant]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, contestant: str, steps: int) -> dict[str, float]:
    """CPU milliseconds and page faults of a step, and the largest resident set in MB."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    call = packed_call(contestant) if name == PACKED else training_step(name, contestant)
    for _ in range(3):
        call()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    times = [milliseconds(call, "cpu") for _ in range(steps)]
    used = resource.getrusage(resource.RUSAGE_SELF)
    return dict(ms=statistics.median(times), faults=(used.ru_minflt - faults) / steps, mb=used.ru_maxrss / 1024)


def training_step(name: str, contestant: str) -> Callable[[], Any]:
    """A call that trains one step."""
    model, loss = NETWORKS[name]()[contestant]
    model.train()
    step(contestant, model, loss)
    optimizer = torch.optim.Adam(model.parameters())

    def call() -> None:
        step(contestant, model, loss)
        optimizer.step()

    return call


def packed_call(file: str) -> Callable[[], Any]:
    """A call of the packed network."""
    packed, image = load_model(file), torch.randn(1, 3, 224, 224)
    return lambda: packed(image)


def print_table(title: str, cells: dict[str, list[dict[str, float]]]) -> None:
    """A line a setting; ratios are medians of the rounds' own."""
    first = next(iter(cells.values()))
    print(f"\n| {title} | ms a step | / glibc's | page faults | MB |\n| --- | --- | --- | --- | --- |")
    for setting, rounds in cells.items():
        times = [each["ms"] for each in rounds]
        ratio = statistics.median(each["ms"] / base["ms"] for each, base in zip(rounds, first, strict=True))
        faults, memory = (statistics.median(each[key] for each in rounds) for key in ("faults", "mb"))
        spread = f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})"
        print(f"| {setting} | {spread} | {ratio:.2f} | {faults:.0f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
