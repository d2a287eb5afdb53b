import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook
from torch import nn

from rebnn_mm.hooks.finite_loss import FiniteLossHook
from rebnn_mm.layers import ReBNNConv2d


class Break(Hook):
    """Do something to the model before one iteration."""

    def __init__(self, at, act):
        self.at, self.act = at, act

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            self.act(runner.model)
            runner.weights_before = [p.detach().clone() for p in runner.model.parameters()]


def train_broken(make_runner, act, at=5, epochs=2, **kwargs):
    """Train with a fault and return the error and the runner."""
    runner = make_runner(epochs, hooks=[FiniteLossHook(), Break(at, act)], **kwargs)
    with pytest.raises(FloatingPointError) as caught:
        runner.train()
    return str(caught.value), runner


def overflow(model):
    model.middle.scale = float("inf")


def test_names_moment_terms_layer_and_checkpoint(make_runner):
    message, runner = train_broken(make_runner, overflow)
    assert "epoch 2, iteration 6" in message  # eight images in batches of two
    assert "loss_fit=" in message and "loss_levels=[" in message and "acc=" in message
    # the layer itself: neither the finite one inside it nor the ones after it
    assert "First layer whose output is not finite: 'middle' (Scaled)" in message
    assert f"kept: {runner.work_dir}/epoch_1.pth" in message
    assert "parameters" not in message


def test_stops_before_the_update(make_runner):
    _, runner = train_broken(make_runner, overflow)
    for before, after in zip(runner.weights_before, runner.model.parameters(), strict=True):
        assert torch.equal(before, after) and torch.isfinite(after).all()


def test_names_a_parameter_and_says_when_nothing_was_saved(make_runner):
    def act(model):
        model.last.weight.data[0, 3] = float("nan")

    message, runner = train_broken(make_runner, act, at=1)
    assert "parameters that are not finite: last.weight. " in message and "'last' (Linear)" in message
    assert f"No checkpoint was saved yet in {runner.work_dir}" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_tensor_in_a_list_of_losses(make_runner, value):
    message, _ = train_broken(make_runner, lambda model: setattr(model, "extra_loss", torch.tensor(value)), at=0)
    assert f"{value}]" in message and "Every layer's output is finite" in message


def test_bad_batch(make_runner):
    class Poison(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            data_batch["x"][1][0] = float("nan")

    with pytest.raises(FloatingPointError, match="The batch itself holds"):
        make_runner(hooks=[FiniteLossHook(), Poison()]).train()


@pytest.mark.parametrize("fault", ["batch", "stem"])
def test_nan_that_a_sign_hides_from_the_loss(fault):
    """In front of the 1-bit layer it makes statistics NaN for good, and the loss stays finite."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), ReBNNConv2d(4, 4, 1, input_norm=True))
    model.forward = lambda x, mode: {"loss": nn.Sequential.forward(model, x).mean()}
    x = torch.randn(2, 3, 4, 4)
    runner = SimpleNamespace(model=model, epoch=0, iter=0, work_dir="nowhere")
    hook = FiniteLossHook()
    hook.before_train(runner)
    assert model(x, mode="loss")["loss"].isfinite()
    if fault == "batch":
        x[0, 0, 0, 0] = float("nan")
    else:
        model[0].weight.data[0] = float("nan")
    with pytest.raises(FloatingPointError, match="what a sign hides is not finite"):
        model(x, mode="loss")
    with pytest.raises(FloatingPointError, match="not saved, parameters that are not finite"):
        model[0].weight.data.zero_()
        hook.before_save_checkpoint(runner, {})


def test_a_metric_beside_the_losses_may_be_nan(make_runner):
    class Odd(type(make_runner().model)):
        def forward(self, x, mode="tensor"):
            out = super().forward(x, mode)
            return {**out, "acc": torch.tensor(float("nan"))} if mode == "loss" else out

    make_runner(hooks=[FiniteLossHook()], model=Odd()).train()


def test_a_blown_up_update_is_not_saved_over_the_good_checkpoint(make_runner):
    class BlowUp(Hook):  # finite loss, infinite gradient: seen only in the weights
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 7:
                runner.model.first.weight.data.fill_(float("inf"))

    keep_one = dict(type="ResilientCheckpointHook", interval=1, max_keep_ckpts=1)
    runner = make_runner(2, hooks=[FiniteLossHook(), BlowUp()], checkpoint=keep_one)
    with pytest.raises(
        FloatingPointError, match=r"not saved, parameters that are not finite: first.weight.*epoch_1.pth"
    ):
        runner.train()
    saved = torch.load(f"{runner.work_dir}/latest.pth", weights_only=False)["state_dict"]
    assert all(torch.isfinite(value).all() for value in saved.values())


def test_hooks_are_removed(make_runner):
    runner = make_runner(hooks=[FiniteLossHook()])
    runner.train()
    assert not runner.model._forward_hooks
    _, runner = train_broken(make_runner, overflow, at=0)
    assert not any(module._forward_hooks for name, module in runner.model.named_modules() if name)


def test_second_forward_that_fails_keeps_the_report(make_runner):
    def act(model):
        overflow(model)
        forward, calls = model.last.forward, []

        def fail_on_second(x):
            calls.append(x)
            if len(calls) > 1:
                raise RuntimeError("out of memory")
            return forward(x)

        model.middle.scale, model.last.forward = 1.0, fail_on_second
        model.extra_loss = torch.tensor(float("nan"))

    message, _ = train_broken(make_runner, act, at=0)
    assert "loss_levels=[" in message and "could not be found (second forward: out of memory)" in message


RANK = """
import sys, torch, torch.distributed as dist
from types import SimpleNamespace
from mmengine.model import BaseModel, MMDistributedDataParallel
from rebnn_mm.hooks.finite_loss import FiniteLossHook

class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
    def forward(self, x, mode="loss"):
        loss = self.layer(x).mean()
        averaged = loss.detach().clone()
        dist.all_reduce(averaged)  # as detectors average their number of positives
        return dict(loss=loss)

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
model = MMDistributedDataParallel(Model(), broadcast_buffers=False)
FiniteLossHook().before_train(SimpleNamespace(model=model, work_dir=sys.argv[3], epoch=0, iter=0))
model.train()
try:
    model(torch.full((1, 2), float("nan") if rank else 1.0), mode="loss")
except FloatingPointError as error:
    print("stopped:", error)
"""


@pytest.mark.slow
def test_all_ranks_stop_when_one_is_not_finite(tmp_path):
    """Without agreement rank 0 would wait for ever for rank 1, in the second forward or in backward."""
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meet"), str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert all("stopped: epoch 1, iteration 1" in output for output in outputs)
    assert "another rank's loss" in outputs[0] and "The batch itself" in outputs[1]
