"""How OpenMP's threads should wait for each other: a training step and packed inference, alone and beside a busy loop.

python benchmarks/busy.py [--threads 2] [--rounds 5] [--steps 10] [--busy 1] [--size 64] [--batch 16]

Each setting is an environment, read once when torch is loaded: every measurement is a process of its own. The settings
take turns in every round, idle and busy; a cell is the median over rounds of the median step, in milliseconds, with the
slowest step in brackets. Run it on a machine where nothing else runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

DEFAULT = "as OpenMP does by itself"
SETTINGS = {
    DEFAULT: {},
    **{f"GOMP_SPINCOUNT={count}": {"GOMP_SPINCOUNT": str(count)} for count in (0, 100, 1000, 10_000, 100_000)},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}
TASKS = ("train", "packed")


def main() -> None:
    """Measure in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="timed in each process, after two that do not count")
    parser.add_argument("--busy", type=int, default=1, help="programs that compute beside it")
    parser.add_argument("--size", type=int, default=64, help="side of the images")
    parser.add_argument("--batch", type=int, default=16, help="of the training step; the packed model gets one image")
    parser.add_argument("--step", nargs=2, metavar=("TASK", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(measure(*args.step, args)))
        return
    cells = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "m.rebnn"
        run(SETTINGS[DEFAULT], "export", file)
        for _ in range(args.rounds):
            for name, setting in SETTINGS.items():
                for task in TASKS:
                    for load in (0, args.busy):
                        cells[name, task, load].append(beside(load, setting, task, file))
    print_table(cells, args.busy)


def beside(load: int, setting: dict[str, str], task: str, file: Path) -> list[float]:
    """Milliseconds of each step, ``load`` busy loops running."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(load)]
    try:
        return run(setting, task, file)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def run(setting: dict[str, str], task: str, file: Path) -> list[float]:
    """What a process of its own measures; it gets this program's arguments."""
    others = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {key: value for key, value in os.environ.items() if key not in others} | setting
    command = [sys.executable, __file__, *sys.argv[1:], "--step", task, str(file)]
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(task: str, file: str, args: argparse.Namespace) -> list[float]:
    """Write the packed model, or time steps of ``task``."""
    import torch  # before rebnn_mm, which would choose a setting itself

    from rebnn_mm.backbones import ReBNNResNet
    from rebnn_mm.deploy import export_model, load_model

    torch.manual_seed(0)
    if task == "export":
        export_model(ReBNNResNet(18).eval(), file)
        return []
    torch.set_num_threads(args.threads)
    if task == "packed":
        packed = load_model(file)
        image = torch.randn(1, 3, args.size, args.size)
        return timed(lambda: packed(image), args.steps)
    model = ReBNNResNet(18)
    optimizer = torch.optim.Adam(model.parameters())
    images = torch.randn(args.batch, 3, args.size, args.size)

    def step() -> None:
        optimizer.zero_grad()
        sum(part.square().mean() for part in model(images)).backward()
        optimizer.step()

    return timed(step, args.steps)


def timed(step, number: int) -> list[float]:
    """Milliseconds of ``number`` calls after two that do not count."""
    from rebnn_mm.workflows.timing import milliseconds  # here: behind torch, as in measure

    return [milliseconds(step) for _ in range(number + 2)][2:]


def print_table(cells: dict[tuple[str, str, int], list[list[float]]], busy: int) -> None:
    """A line a setting."""
    heads = [f"{task}, {'idle' if load == 0 else f'{busy} busy'}" for task in TASKS for load in (0, busy)]
    print("| ms a step (slowest) | " + " | ".join(heads) + " |")
    print("| --- " * (len(heads) + 1) + "|")
    for name in SETTINGS:
        row = []
        for task in TASKS:
            for load in (0, busy):
                rounds = cells[name, task, load]
                median = statistics.median(statistics.median(times) for times in rounds)
                row.append(f"{median:.1f} ({max(map(max, rounds)):.0f})")
        print(f"| {name} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
