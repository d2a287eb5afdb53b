"""Every hook of ours beside what trainings do: copies, averages, resuming, optimizers, accumulation, freezing.

A hook that is registered is covered by having a row in HOOKS; the last test fails for one that has none.
"""

import copy
import math

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS as REGISTRY
from torch import nn

from rebnn_mm.estimators import EDE
from rebnn_mm.layers import IRNetConv2d, ReBNNConv2d, ReCUConv2d

HOOKS = dict(
    BalanceHook=(ReBNNConv2d, dict(flip_interval=2)),
    OscillationHook=(ReBNNConv2d, dict(interval=1)),
    EDEHook=(IRNetConv2d, {}),
    ReCUHook=(ReCUConv2d, {}),
    FiniteLossHook=(ReBNNConv2d, {}),
    EpochSeedHook=(ReBNNConv2d, {}),
    LatentClipHook=(ReBNNConv2d, {}),
    SilentDecayHook=(ReBNNConv2d, {}),
)
# test_checkpoint.py: it takes the place of mmengine's own; test_resume.py: it acts while a checkpoint is loaded;
# test_norm_statistics.py: it wants a model with batch norms
ELSEWHERE = {"ResilientCheckpointHook", "ResumeHook", "NormStatisticsHook"}


class Net(BaseModel):
    def __init__(self, conv):
        super().__init__()
        self.first, self.second = conv(1, 4, (1, 2)), nn.Sequential(conv(4, 4, 1))

    def forward(self, x, mode="loss"):
        x = torch.stack(x) if isinstance(x, list) else x
        return dict(loss=(self.second(self.first(x[:, None, None])) - 1).square().mean())

    def train_step(self, data, optim_wrapper):
        if not isinstance(optim_wrapper, OptimWrapperDict):
            return super().train_step(data, optim_wrapper)
        loss, log = self.parse_losses(self(**data))
        loss.backward()
        for wrapper in optim_wrapper.values():
            wrapper.step()
        optim_wrapper.zero_grad()
        return log


@pytest.fixture
def run(make_runner, tmp_path):
    """Train a model with the hook ``name``; the runner."""

    def run(name, folder="work", epochs=2, model=None, hooks=(), wrapper=None, **kwargs):
        conv, options = HOOKS[name]
        torch.manual_seed(0)
        hooks = [dict(type=name, **options), *([] if name == "EpochSeedHook" else [dict(type="EpochSeedHook")]), *hooks]
        runner = make_runner(epochs, model=model or Net(conv), hooks=hooks, work_dir=tmp_path / folder, **kwargs)
        if wrapper is not None:
            runner.optim_wrapper = wrapper(runner.model)
        runner.train()
        return runner

    return run


def same(one, other):
    ours, theirs = (dict(runner.model.state_dict()) for runner in (one, other))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours) and ours.keys() == theirs.keys()


def moved(runner, start):
    return any(not torch.equal(value, start[key]) for key, value in runner.model.state_dict().items())


@pytest.mark.parametrize("name", HOOKS)
def test_a_copied_model_trains_the_same(run, name):
    torch.manual_seed(0)
    model = Net(HOOKS[name][0])
    same(run(name, "a", model=copy.deepcopy(model)), run(name, "b", model=model))


@pytest.mark.slow
@pytest.mark.parametrize("name", HOOKS)
def test_an_average_beside_it_changes_nothing(run, name):
    one, ema = run(name, "a"), EMAHook()
    two = run(name, "b", hooks=[ema])
    same(one, two)
    averaged = [module for module in ema.ema_model.modules() if isinstance(module, (EDE, ReCUConv2d))]
    trained = [module for module in two.model.modules() if isinstance(module, (EDE, ReCUConv2d))]
    for copied, own in zip(averaged, trained, strict=True):
        assert (getattr(copied, "t", None), getattr(copied, "tau", None)) == (
            getattr(own, "t", None),
            getattr(own, "tau", None),
        )


@pytest.mark.parametrize("name", HOOKS)
def test_a_resumed_training_is_the_whole_one(run, name, tmp_path):
    whole = run(name, "a", epochs=3)
    (tmp_path / "a" / "epoch_3.pth").unlink()
    first = str(tmp_path / "a" / "epoch_1.pth")
    same(whole, run(name, "a", epochs=3, resume=True, load_from=first))


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("kind", ["several", "accumulated"])
def test_several_optimizers_and_accumulation(run, name, kind):
    def several(model):
        parts = (model.first, model.second)
        return OptimWrapperDict(
            **{f"part{i}": OptimWrapper(torch.optim.SGD(p.parameters(), 0.05)) for i, p in enumerate(parts)}
        )

    def accumulated(model):
        return OptimWrapper(torch.optim.SGD(model.parameters(), 0.05), accumulative_counts=2)

    wrapper = dict(several=several, accumulated=accumulated)[kind]
    torch.manual_seed(0)
    start = copy.deepcopy(Net(HOOKS[name][0]).state_dict())
    runner = run(name, wrapper=wrapper)
    assert moved(runner, start)
    assert all(math.isfinite(value.sum()) for value in runner.model.state_dict().values())


@pytest.mark.parametrize("name", HOOKS)
def test_a_frozen_layer_stays_as_it_is(run, name):
    torch.manual_seed(0)
    model = Net(HOOKS[name][0])
    model.first.requires_grad_(False)
    start = copy.deepcopy(model.state_dict())
    runner = run(name, model=model)
    for key, value in runner.model.state_dict().items():
        assert not key.startswith("first.") or torch.equal(value, start[key]), key
    assert moved(runner, start)


def test_every_hook_of_ours_is_covered():
    ours = {name for name, kind in REGISTRY.module_dict.items() if kind.__module__.startswith("rebnn_mm.hooks")}
    assert ours == HOOKS.keys() | ELSEWHERE
