"""BERT-base as an ExecuTorch program beside eager packed torch: 128 tokens, batch 1, one thread.

REBNN_KERNELS=1 sh runtime/build.sh build
python benchmarks/executorch_bert.py [--tokens 128] [--layers 12] [--levels 1-1 1-1-1] [--rounds 9] [--profile]

Weights are random. A program runs in ``rebnn_run``, each round a process of its own, in turn with torch; a time is the
median of a round's calls, in CPU time. The spread is that of the rounds. --profile adds where a program's time goes.
"""

import argparse
import logging
import re
import subprocess
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import torch
from executorch_programs import here, print_table, run

from rebnn_mm.deploy import export_model, load_model
from rebnn_mm.deploy.graph.parts import Part
from rebnn_mm.deploy.targets.executorch.export import export_executorch
from rebnn_mm.deploy.targets.executorch.program import runtime_folder
from rebnn_mm.integrations.bert import LEVELS, NET_INPUTS, BertClassifier, token_noise
from rebnn_mm.kept_memory import keep_freed_memory
from rebnn_mm.workflows.timing import machine


def main() -> None:
    """Export each level, run in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--levels", nargs="+", choices=list(LEVELS), default=["1-1", "1-1-1"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=15)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    keep_freed_memory()
    print(machine())
    for level in args.levels:
        with tempfile.TemporaryDirectory() as folder:
            _compare(Path(folder), level, args)


def _compare(folder: Path, level: str, args: argparse.Namespace) -> None:
    torch.manual_seed(0)
    sizes = dict(hidden_size=768, num_hidden_layers=args.layers, num_attention_heads=12, intermediate_size=3072)
    trained = BertClassifier("rte", sizes, dict(type="ReBNNLinear"), level).eval()
    noise = token_noise(dict(bert=sizes), (args.tokens,) * 2)  # two rows leave the batch open
    part = Part("", [noise[n] for n in NET_INPUTS], lambda net, *inputs: net(*inputs).logits, whole="network")
    export_model(trained.net, folder / "m.rebnn", parts=[part])
    report = export_executorch(folder / "m.rebnn", folder / "binary.pte", length=args.tokens)
    print(f"\n{level}\n{report}")
    x = [noise[name][:1] for name in NET_INPUTS]
    packed = {exact: load_model(folder / "m.rebnn", exact=exact) for exact in (True, False)}
    rounds: dict[str, list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        rounds.setdefault("binary.pte", []).append(run(folder / "binary.pte", args.calls))
        for exact, network in packed.items():
            rounds.setdefault(f"eager packed, exact={exact}", []).append(here(partial(network, *x), args.calls))
    print_table(rounds, {"binary.pte": report.size / 1e6})
    if args.profile:
        _profile(folder / "binary.pte", report.placement.steps)


def _profile(path: Path, steps: tuple[str, ...]) -> None:
    """The program's milliseconds by kind of step."""
    command = [str(runtime_folder() / "rebnn_run"), str(path), "--noise", "--repeat", "40", "--profile"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    times = [float(found) for found in re.findall(r"^step \d+: ([\d.]+) ms", text, re.MULTILINE)]
    total: Counter[str] = Counter()
    for name, milliseconds in zip(steps, times, strict=True):
        total[name] += milliseconds
    for name, milliseconds in total.most_common():
        print(f"{milliseconds:9.3f}  {name}")


if __name__ == "__main__":
    main()
