"""Cost of OscillationHook in a training iteration of ResNet-18.

python benchmarks/oscillation_hook.py [--batch 32] [--size 224] [--stem imagenet|cifar] [--device cpu|cuda]

Forward and backward, the optimizer's step, and each of the hook's moments are timed apart, in turns: a record (the
pre-hook, the post-hook, the transfer and the writing), the flips of a single update, and all histograms. Printed are
medians, and the share of an iteration they take at the default intervals. On a CPU times are CPU seconds of this
process, so that another program beside it disturbs them less.
"""

import argparse
import platform
import statistics
import tempfile
from collections.abc import Callable
from types import SimpleNamespace

import torch
from mmengine.optim import OptimWrapper

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.hooks import OscillationHook
from rebnn_mm.layers import binary_layers
from rebnn_mm.workflows.timing import milliseconds


def seconds(function: Callable[[], object], device: str) -> float:
    """CPU time of one call; on a GPU the time until it has finished."""
    if device == "cpu":
        return milliseconds(function, "cpu") / 1e3

    def finished() -> None:
        function()
        torch.cuda.synchronize()

    torch.cuda.synchronize()
    return milliseconds(finished) / 1e3


class Bench:
    """A model, one batch, and a hook attached to a runner that is just what the hook reads."""

    def __init__(self, args: argparse.Namespace, work_dir: str) -> None:
        torch.manual_seed(0)
        self.model = ReBNNResNet(depth=18, stem=args.stem).to(args.device)
        self.images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
        self.wrapper = OptimWrapper(torch.optim.Adam(self.model.parameters(), lr=1e-3))
        self.hook = OscillationHook(interval=1, histogram_interval=10**9)
        silent = SimpleNamespace(add_scalars=lambda *args, **kwargs: None)
        self.runner = SimpleNamespace(
            model=self.model,
            optim_wrapper=self.wrapper,
            hooks=[self.hook],
            iter=0,
            work_dir=work_dir,
            train_dataloader=[None],
            visualizer=silent,
        )
        self.forward_backward()

    def forward_backward(self) -> None:
        """One iteration without its update."""
        self.wrapper.optimizer.zero_grad()
        self.model(self.images)[0].square().mean().backward()

    def step_and_record(self) -> None:
        """An update with a record."""
        self.wrapper.optimizer.step()
        self.hook.after_train_iter(self.runner, 0)

    def flips(self) -> None:
        """The flips of a single update."""
        for watch in self.hook._watches:
            watch.update_flips = None  # the first update behind a snapshot counts
            watch.count_update_flips()


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="images in an iteration")
    parser.add_argument("--size", type=int, default=224, help="height and width of an image")
    parser.add_argument("--stem", choices=("imagenet", "cifar"), default="imagenet", help="ReBNNResNet's option")
    parser.add_argument("--rounds", type=int, default=7, help="medians are taken over this many")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    torch.set_num_threads(1)
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as work_dir:
        bench = Bench(args, work_dir)
        for _ in range(args.rounds):
            for name, call in (("forward_backward", bench.forward_backward), ("step", bench.wrapper.optimizer.step)):
                times.setdefault(name, []).append(seconds(call, args.device))
            bench.hook.before_train(bench.runner)
            for name, call in (
                ("step_and_record", bench.step_and_record),
                ("flips", bench.flips),
                ("histograms", lambda: bench.hook._write_histograms(1)),
            ):
                times.setdefault(name, []).append(seconds(call, args.device))
            for handle in bench.hook._handles:
                handle.remove()
            bench.hook._handles.clear()
    report(args, bench, {name: statistics.median(values) for name, values in times.items()})


def report(args: argparse.Namespace, bench: Bench, medians: dict[str, float]) -> None:
    """Print the medians and what they come to."""
    default = OscillationHook()
    weights = sum(layer.weight.numel() for layer in binary_layers(bench.model).values())
    # with an interval of one update, a record counts the flips of a single update as well
    record = medians["step_and_record"] - medians["step"]
    whole = medians["forward_backward"] + medians["step"]
    each = record + medians["histograms"] / default.histogram_interval
    print(
        f"torch {torch.__version__}, {platform.machine()}, {args.device}, 1 thread; batch {args.batch}, {args.size} px"
    )
    print(f"{len(bench.hook._watches)} layers, {weights:,} 1-bit weights; {args.rounds} rounds, medians")
    for name, value in medians.items():
        print(f"{name:17} {1000 * value:9.2f} ms")
    print(f"a record          {1000 * record:9.2f} ms   with the flips of one update")
    print(
        f"OscillationHook   {1000 * each / default.interval:9.2f} ms   an iteration of {1000 * whole:.0f} ms: ", end=""
    )
    print(f"{100 * each / default.interval / whole:.3f} %, every {default.interval} updates")


if __name__ == "__main__":
    main()
