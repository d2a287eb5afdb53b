"""A 1-bit toy model for the tests of hooks; run as a program, this file is one rank of its distributed training."""

import json
import os
import subprocess
import sys

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader, DistributedSampler

from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear, binary_layers


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv = ReBNNConv2d(3, 4, 3, bias=False)
        self.head = ReBNNLinear(4, 2)

    def forward(self, x, mode="loss"):
        return dict(loss=self.head(self.conv(x).mean((2, 3))).square().mean())


def train_ranks(world, out, *hooks):
    """Train in ``world`` processes with the work dir ``out/work``; (gammas, weights) of each rank, by update."""
    out.mkdir()
    command = [sys.executable, __file__, str(world), str(out), json.dumps(hooks)]
    ranks = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(world)]
    for process in ranks:
        assert process.wait(timeout=240) == 0, process.stderr.read()[-3000:]
    return [torch.load(out / f"rank{rank}.pt") for rank in range(world)]


class _Record(Hook):
    """Gamma and latent weights of all layers after every iteration."""

    def __init__(self):
        self.gamma, self.weight = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        layers = binary_layers(runner.model).values()
        self.gamma.append(torch.cat([layer.gamma.flatten() for layer in layers]))
        self.weight.append(torch.cat([layer.weight.detach().flatten() for layer in layers]))


def _train_rank(world, out, hooks, rank):
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=world)
    torch.manual_seed(0)
    data, model, record = list(torch.randn(8, 3, 6, 6)), Toy(), _Record()
    loader = DataLoader(
        data,
        batch_size=2 // world,
        sampler=DistributedSampler(data, world, rank, shuffle=False),
        collate_fn=lambda b: dict(x=torch.stack(b)),
    )
    Runner(
        model,
        f"{out}/work",
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.35)),  # signs flip; 0.5 diverges, and rounding decides
        custom_hooks=[*hooks, record],
        launcher="pytorch",
        cfg=dict(model_wrapper_cfg=dict(device_ids=None)),
        randomness=dict(seed=0),
        log_level="ERROR",
    ).train()
    torch.save((record.gamma, record.weight), f"{out}/rank{rank}.pt")


if __name__ == "__main__":
    import rebnn_mm  # noqa: F401  # registers the hooks

    _train_rank(int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]))
