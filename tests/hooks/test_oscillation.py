"""OscillationHook on a real runner, its numbers beside independent formulas."""

import copy

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from rebnn_mm.analysis import read_oscillation
from rebnn_mm.hooks import BalanceHook, OscillationHook
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv = ReBNNConv2d(3, 4, 3, bias=False)
        self.head = ReBNNLinear(4, 2)

    def forward(self, x, mode="loss"):
        return dict(loss=self.head(self.conv(x).mean((2, 3))).square().mean())


class Spy(Hook):
    """Weights after each iteration, and the task gradient that the loss alone has for the next update."""

    def __init__(self):
        self.weight = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.weight.append(runner.model.conv.weight.detach().clone())


def train(path, hooks, epochs=2, model=None, resume=False, wrapper=None, **kwargs):
    torch.manual_seed(0)
    data = list(torch.randn(6, 3, 6, 6))
    model = model or Toy()
    runner = Runner(
        model,
        str(path),
        train_dataloader=DataLoader(data, batch_size=1, collate_fn=lambda b: dict(x=torch.stack(b))),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=wrapper or dict(optimizer=dict(type="Adam", lr=0.05)),
        custom_hooks=list(hooks),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)),
        experiment_name=f"oscillation{id(model)}",
        resume=resume,
        randomness=dict(seed=0),
        log_level="ERROR",
        **kwargs,
    )
    start = copy.deepcopy(runner.model.state_dict())
    runner.train()
    return runner, start


def expected_flips(signs, interval):
    """(flips, flips back) at each snapshot, by the definition, from the signs before and after every update."""
    shots = signs[::interval]
    flipped = [np.zeros(shots[0].shape, bool)] * 3
    rows = []
    for before, after in zip(shots[:-1], shots[1:], strict=True):
        flip = before != after
        back = flip & (flipped[-1] | flipped[-2] | flipped[-3])
        rows.append((flip.mean(), back.mean()))
        flipped.append(flip)
    return np.array(rows)


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_flips_follow_their_definition(tmp_path, interval):
    spy = Spy()
    _, start = train(tmp_path, [BalanceHook(), OscillationHook(interval=interval), spy], epochs=4)
    signs = [(w >= 0).numpy() for w in [start["conv.weight"], *spy.weight]]
    record = read_oscillation(tmp_path)
    assert record.layers == ("conv", "head") and not record.cut_off
    assert record.iteration.tolist() == list(range(interval, 25, interval))
    expected = expected_flips(signs, interval)
    assert expected[:, 1].any()
    np.testing.assert_allclose(record.values["flip_share"][:, 0], expected[:, 0], rtol=1e-6)
    np.testing.assert_allclose(record.values["flip_back_share"][:, 0], expected[:, 1], rtol=1e-6)
    first = [(signs[t] != signs[t + 1]).mean() for t in range(0, 24, interval)]
    np.testing.assert_allclose(record.values["update_flip_share"][:, 0], first, rtol=1e-6)
