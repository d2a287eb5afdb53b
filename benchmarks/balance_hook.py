"""Cost of BalanceHook in a training iteration of ResNet-18.

python benchmarks/balance_hook.py [--batch 32] [--size 224] [--magnitude weight|gradient]

Forward and backward are timed alone, and so are the optimizer's step with and without the hook's two moments around
it, A B A B; printed are medians and the hook's share of the whole iteration. Times are CPU seconds of this process, so
another program beside it disturbs them less.
"""

import argparse
import platform
import statistics
from types import SimpleNamespace

import torch
from mmengine.optim import OptimWrapper

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.hooks import BalanceHook
from rebnn_mm.workflows.timing import milliseconds


def cpu_seconds(function) -> float:
    """CPU time of one call."""
    return milliseconds(function, "cpu") / 1e3


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="images in an iteration")
    parser.add_argument("--size", type=int, default=224, help="height and width of an image")
    parser.add_argument("--rounds", type=int, default=7, help="medians are taken over this many")
    parser.add_argument("--magnitude", choices=("weight", "gradient"), default="weight", help="BalanceHook's option")
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = ReBNNResNet(depth=18)
    wrapper = OptimWrapper(torch.optim.Adam(model.parameters(), lr=1e-3))
    images = torch.randn(args.batch, 3, args.size, args.size)
    hook = BalanceHook(magnitude=args.magnitude)
    runner = SimpleNamespace(model=model, optim_wrapper=wrapper, hooks=[hook], iter=0, max_iters=1)

    def forward_backward() -> None:
        wrapper.optimizer.zero_grad()
        model(images)[0].square().mean().backward()

    forward_backward()
    times: dict[str, list[float]] = dict(forward_backward=[], step=[], step_with_hook=[])
    for _ in range(args.rounds):
        times["forward_backward"].append(cpu_seconds(forward_backward))
        times["step"].append(cpu_seconds(wrapper.optimizer.step))
        hook.before_train(runner)
        times["step_with_hook"].append(cpu_seconds(wrapper.optimizer.step))
        hook.after_train(runner)
    medians = {name: statistics.median(values) for name, values in times.items()}
    cost = medians["step_with_hook"] - medians["step"]
    whole = medians["forward_backward"] + medians["step"]
    print(f"torch {torch.__version__}, {platform.machine()}, 1 thread; batch {args.batch}, {args.size} x {args.size}")
    for name, values in times.items():
        print(f"{name:17} {medians[name]:8.3f} s   ({min(values):.3f} to {max(values):.3f}, {args.rounds} rounds)")
    print(f"BalanceHook       {cost:8.3f} s   {100 * cost / whole:.2f} % of an iteration without it")


if __name__ == "__main__":
    main()
