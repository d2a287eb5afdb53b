"""Where the time of a packed network goes: its steps, each kind together."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from statistics import median

import torch
from torch import nn

from rebnn_mm.deploy.graph.network import GraphNetwork


def profile(model: nn.Module, x: torch.Tensor, calls: int = 15) -> str:
    """CPU time of each kind of step of the first graph in ``model``, median of some calls, the largest first."""
    program = next(part for part in model.modules() if isinstance(part, GraphNetwork))._program()
    times: dict[int, list[float]] = defaultdict(list)
    with torch.inference_mode():
        for _ in range(calls):
            values = [x, *program._constants, *[None] * program._calls]
            for index, step in enumerate(program._steps):
                start = time.process_time_ns()
                step.run(values)
                times[index].append((time.process_time_ns() - start) / 1e6)
    total: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for index, step in enumerate(program._steps):
        total[str(step)] += median(times[index])
        count[str(step)] += 1
    lines = [f"{ms:8.3f} ms  {count[name]:4} {name}" for name, ms in total.most_common(14)]
    return "\n".join([*lines, f"{sum(total.values()):8.3f} ms       all steps"])
