"""OscillationHook on a real runner, its numbers beside independent formulas."""

import copy
import itertools

import numpy as np
import pytest
import torch
from binary_toy import Toy
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from small_disk import run_on_small_disk
from torch import nn
from torch.utils.data import DataLoader

from rebnn_mm import functional as F
from rebnn_mm.analysis import read_oscillation
from rebnn_mm.files.oscillation import COLUMNS
from rebnn_mm.hooks import BalanceHook, OscillationHook
from rebnn_mm.hooks.layer_watch import LayerWatch
from rebnn_mm.layers import BinaryLayer, IRNetConv2d, ReActConv2d, ReBNNLinear


class Spy(Hook):
    """Weights after each iteration."""

    def __init__(self):
        self.weight = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.weight.append(runner.model.conv.weight.detach().clone())


# one a runner: a name that comes again within a second brings mmengine's earlier logger with it, and its level
_NAMES = (f"oscillation{number}" for number in itertools.count())


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
        experiment_name=next(_NAMES),
        resume=resume,
        randomness=dict(seed=0),
        **{"log_level": "ERROR", **kwargs},
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


def test_values_of_a_layer(tmp_path):
    """Band, saturation, dead channels, scales and gradient norms beside autograd, at the last update."""

    class Look(Hook):
        priority = "VERY_HIGH"

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            conv = runner.model.conv
            if runner.iter == 0:  # one channel without a zero crossing, one with saturated weights only
                conv.weight.data[0].abs_().add_(0.5)
                conv.weight.data[1] = torch.where(conv.weight.data[1] < 0, -9.0, 9.0)
            self.gamma, self.alpha = conv.gamma.clone(), conv.alpha.detach().clone()
            (self.task,) = torch.autograd.grad(runner.model(data_batch["x"])["loss"], conv.weight)
            self.weight = conv.weight.detach().clone()

    look, spy = Look(), Spy()
    train(tmp_path, [look, BalanceHook(), OscillationHook(interval=6, band=0.3), spy], epochs=1)
    record = read_oscillation(tmp_path)
    got = {name: table[-1, 0] for name, table in record.values.items()}
    after = spy.weight[-1].double()
    w = look.weight.double().requires_grad_()
    F.reconstruction_loss(w, look.alpha.view(-1, 1, 1, 1).double(), look.gamma.double()).backward()
    assert look.gamma.any()
    assert got["reconstruction_grad"] == pytest.approx(w.grad.norm().item(), rel=1e-5)
    assert got["task_grad"] == pytest.approx(look.task.norm().item(), rel=1e-5)
    assert got["gamma_mean"] == pytest.approx(look.gamma.mean().item())
    assert got["gamma_max"] == pytest.approx(look.gamma.max().item())
    assert got["alpha_mean"] == pytest.approx(look.alpha.mean().item())
    size = after.abs()
    assert got["band_share"] == pytest.approx((size < 0.3 * size.mean()).double().mean().item())
    assert got["saturated_share"] == pytest.approx((size > 1).double().mean().item()) and got["saturated_share"] >= 0.25
    assert got["dead_channel_share"] == 0.5
    histogram = record.histograms["conv"]
    assert histogram.iteration.tolist() == [0, 6] and histogram.limit[1] == pytest.approx(4 * size.mean().item())
    expected, _ = np.histogram(after.numpy(), histogram.edges(1))
    assert np.abs(histogram.counts[1] - expected).sum() <= 2  # a weight on an edge, rounded
    assert record.first_channel.total == 27 and record.first_channel.counts[1].sum() == 27


def test_training_is_the_same_with_and_without(tmp_path):
    with_hook, _ = train(tmp_path / "a", [BalanceHook(), OscillationHook(interval=2)])
    without, _ = train(tmp_path / "b", [BalanceHook()])
    for key, value in without.model.state_dict().items():
        assert torch.equal(value, with_hook.model.state_dict()[key]), key


@pytest.mark.parametrize("interval", [1, 5])
def test_resumed_record_is_that_of_an_uninterrupted_run(tmp_path, interval):
    """Also from an earlier checkpoint than the last: what came after it is cut off and written again."""
    hooks = [dict(type="BalanceHook"), dict(type="OscillationHook", interval=interval, histogram_interval=2)]
    train(tmp_path / "whole", hooks, epochs=4)
    whole = (tmp_path / "whole" / "oscillation.bin").read_bytes()
    train(tmp_path / "parts", hooks, epochs=4)
    path = tmp_path / "parts" / "oscillation.bin"
    with open(path, "ab") as file:
        file.write(whole[100:130])  # what a killed process leaves
    train(tmp_path / "parts", hooks, epochs=4, resume=True, load_from=str(tmp_path / "parts" / "epoch_2.pth"))
    assert path.read_bytes() == whole


def test_resuming_the_finished_run_adds_nothing(tmp_path):
    train(tmp_path, [OscillationHook(interval=2)])
    before = (tmp_path / "oscillation.bin").read_bytes()
    train(tmp_path, [OscillationHook(interval=2)], resume=True)
    assert (tmp_path / "oscillation.bin").read_bytes() == before


def test_hook_added_on_resume_starts_counting_there(tmp_path, caplog):
    train(tmp_path, [BalanceHook()], epochs=1)
    train(tmp_path, [BalanceHook(), OscillationHook(interval=3)], epochs=2, resume=True)
    record = read_oscillation(tmp_path)
    assert record.iteration.tolist() == [9, 12] and record.histograms["conv"].iteration.tolist() == [6, 12]


def test_accumulated_iterations_are_one_update(tmp_path):
    wrapper = dict(optimizer=dict(type="Adam", lr=0.05), accumulative_counts=2)
    train(tmp_path, [OscillationHook(interval=2)], wrapper=wrapper)
    assert read_oscillation(tmp_path).iteration.tolist() == [4, 8, 12]


class Skipping(OptimWrapper):
    """A GradScaler that skips every third update, as after an overflow."""

    def update_params(self, loss, step_kwargs=None, zero_kwargs=None):
        self.calls = getattr(self, "calls", 0) + 1
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        scaler.scale(loss * (float("inf") if self.calls % 3 == 0 else 1.0)).backward()
        scaler.step(self.optimizer)
        scaler.update()
        self.zero_grad()


def test_skipped_updates_do_not_count_and_gradients_are_unscaled(tmp_path):
    model = Toy()
    spy, wrapper = Spy(), Skipping(torch.optim.SGD(model.parameters(), lr=0.1))
    _, start = train(tmp_path, [OscillationHook(interval=1), spy], model=model, wrapper=wrapper, epochs=1)
    record = read_oscillation(tmp_path)
    assert record.iteration.tolist() == [1, 2, 4, 5]
    step = (start["conv.weight"] - spy.weight[0]).norm().item() / 0.1
    assert record.values["task_grad"][0, 0] == pytest.approx(step, rel=1e-4)


class Plain(BinaryLayer):
    """A method without learned scale and balance parameter, whose signs are not those of the stored weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(1, 2, 12).view(4, 3))

    def binary_weight(self):
        return F.sign(self.weight.detach() - 1.5)

    def forward(self, x):
        return nn.functional.linear(x, self.weight + (self.binary_weight() - self.weight).detach())


class Other(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = Plain()
        self.frozen = ReBNNLinear(3, 2).requires_grad_(False)
        self.unused = ReBNNLinear(3, 2)

    def forward(self, x, mode="loss"):
        return dict(loss=self.layer(x.mean((2, 3))).square().mean())


def test_a_channel_beyond_1_is_dead_where_that_clips_its_gradient():
    for kind, expected in ((ReActConv2d, 1.0), (IRNetConv2d, 0.0)):
        layer = kind(8, 8, 3)
        layer.weight.data.copy_(torch.randn(8, 8, 3, 3).sign() * 2)
        values = dict(zip(COLUMNS, LayerWatch("conv", layer, 0.1).snapshot().tolist(), strict=True))
        assert values["dead_channel_share"] == expected and values["saturated_share"] == 1


def test_other_methods_frozen_and_unreached_layers(tmp_path):
    train(tmp_path, [OscillationHook(interval=1)], model=Other())
    record = read_oscillation(tmp_path)
    assert record.layers == ("layer", "unused")
    for name in ("gamma_mean", "gamma_max", "alpha_mean", "reconstruction_grad"):
        assert np.isnan(record.values[name][:, 0]).all()
    assert np.isfinite(record.values["task_grad"][:, 0]).all() and np.isnan(record.values["task_grad"][:, 1]).all()
    # channels 0 and 1 below the threshold, 2 and 3 above it: all of one sign, at the start at least
    assert record.values["dead_channel_share"][0, 0] == 1


@pytest.mark.parametrize("layer_scalars", [False, True])
def test_scalars_reach_tensorboard_and_the_local_log(tmp_path, layer_scalars):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
    visualizer = dict(type="Visualizer", vis_backends=backends, name=f"tb{layer_scalars}")
    hook = OscillationHook(interval=4, layer_scalars=layer_scalars)
    train(tmp_path, [BalanceHook(), hook], visualizer=visualizer)
    (folder,) = tmp_path.glob("*/vis_data")
    events = EventAccumulator(str(folder)).Reload()
    record = read_oscillation(tmp_path)
    found = events.Scalars("oscillation/flip_share")
    assert [event.step for event in found] == [4, 8, 12]
    np.testing.assert_allclose([event.value for event in found], record.network("flip_share"), rtol=1e-6)
    assert ("oscillation/flip_share/conv" in events.Tags()["scalars"]) == layer_scalars
    assert '"oscillation/flip_share"' in (folder / "scalars.json").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(interval=0), "interval=0 must be a whole number >= 1"),
        (dict(histogram_interval=1.5), "histogram_interval=1.5"),
        (dict(band=0), "band=0 must be a finite number > 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        OscillationHook(**options)


def test_refusals_at_the_start(tmp_path):
    class Real(Toy):
        def __init__(self):
            super().__init__()
            self.requires_grad_(False)
            self.scale = nn.Parameter(torch.ones(()))

    with pytest.raises(ValueError, match="no 1-bit layer whose weight learns; make one 1-bit"):
        train(tmp_path, [OscillationHook()], model=Real())
    model = Toy()
    wrapper = OptimWrapper(torch.optim.SGD([model.head.bias], lr=0.1))
    with pytest.raises(ValueError, match="OscillationHook: no optimizer updates any of the 2 1-bit layers"):
        train(tmp_path, [OscillationHook()], model=model, wrapper=wrapper)
    with pytest.raises(ValueError, match="BalanceHook runs first.*leave both hooks' priority"):
        train(tmp_path, [dict(type="BalanceHook", priority="HIGH"), OscillationHook()])


@pytest.mark.slow
def test_two_ranks_write_the_record_of_one(ranks):
    one, two = (read_oscillation(work_dir) for work_dir, _ in (ranks[1], ranks[2]))
    assert one.iteration.tolist() == two.iteration.tolist() == [2, 4, 6, 8]
    for name, table in one.values.items():
        np.testing.assert_allclose(two.values[name], table, rtol=1e-4, atol=1e-7, err_msg=name)


def logged(path):
    """All that the runs in a work dir logged."""
    return "\n".join(log.read_text() for log in sorted(path.glob("*/*.log")))


def test_resuming_with_another_interval_moves_the_old_record_aside(tmp_path):
    train(tmp_path, [OscillationHook(interval=2)])
    old = (tmp_path / "oscillation.bin").read_bytes()
    train(tmp_path, [OscillationHook(interval=3)], resume=True, epochs=3, log_level="WARNING")
    assert (tmp_path / "oscillation_old1.bin").read_bytes() == old
    assert read_oscillation(tmp_path).iteration.tolist() == [15, 18]
    assert "recorded with another interval than this run's" in logged(tmp_path)
    assert "saved with interval=2; flips are counted from here on" in logged(tmp_path)


@pytest.mark.parametrize("damage", ["header", "middle", "folder"])
def test_a_damaged_record_never_blocks_a_resumed_training(tmp_path, damage):
    train(tmp_path, [OscillationHook(interval=2)])
    path = tmp_path / "oscillation.bin"
    content = bytearray(path.read_bytes())
    content[dict(header=0, middle=len(content) // 2, folder=0)[damage]] ^= 1
    path.write_bytes(content)
    if damage == "folder":
        path.unlink()
        path.mkdir()
    runner, _ = train(tmp_path, [OscillationHook(interval=2)], resume=True, epochs=3, log_level="WARNING")
    assert runner.epoch == 3
    if damage == "folder":
        assert logged(tmp_path).count("OscillationHook cannot write") == 1
    else:
        assert (tmp_path / "oscillation_old1.bin").read_bytes() == content
        assert read_oscillation(tmp_path).iteration.tolist() == [14, 16, 18]


@pytest.mark.slow
def test_a_full_disk_loses_records_and_not_the_training(tmp_path):
    """20 of a record's bytes fit: it is taken back, the training goes on, recording too once there is room."""
    code = """
import sys
from pathlib import Path
from mmengine.hooks import Hook
from test_oscillation import BalanceHook, train

class Full(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        path = Path(sys.argv[1]) / "oscillation.bin"
        if runner.iter == 1:
            self.full = small_disk(path.stat().st_size + 20)
            self.full.__enter__()
        if runner.iter == 4:
            self.full.__exit__(None, None, None)

hook = dict(type="OscillationHook", interval=1, histogram_interval=2)
train(sys.argv[1], [Full(), hook], epochs=1, log_level="WARNING")
train(sys.argv[1], [hook], epochs=2, resume=True, log_level="WARNING")
"""
    done = run_on_small_disk(code, tmp_path)
    assert done.returncode == 0, done.stderr
    record = read_oscillation(tmp_path)
    assert not record.cut_off and record.iteration.tolist() == [1, *range(5, 13)]
    text = logged(tmp_path)
    assert text.count("File too large. The training goes on") == 1
    assert "is written again; 9 records and histograms before are missing" in text


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / ".oscillation.bin.part").mkdir()  # where the file would be written
    runner, _ = train(tmp_path, [OscillationHook(interval=1)], log_level="WARNING")
    assert runner.epoch == 2 and not (tmp_path / "oscillation.bin").exists()
    assert logged(tmp_path).count("OscillationHook cannot write") == 1
    (tmp_path / ".oscillation.bin.part").rmdir()
    train(tmp_path, [OscillationHook(interval=1)], epochs=3, resume=True)
    assert read_oscillation(tmp_path).iteration.tolist() == list(range(13, 19))


def test_two_hooks_record_once(tmp_path):
    train(tmp_path, [OscillationHook(interval=6), OscillationHook(interval=2)], log_level="WARNING")
    assert read_oscillation(tmp_path).iteration.tolist() == [2, 4, 6, 8, 10, 12]
    assert "is there 2 times; the one with interval=2 records" in logged(tmp_path)


class Turns(Toy):
    """Two optimizers: the convolution's steps in every iteration, the head's in each third."""

    def train_step(self, data, optim_wrapper):
        loss, log = self.parse_losses(self(**data))
        loss.backward()
        self.calls = getattr(self, "calls", 0) + 1
        for name, wrapper in optim_wrapper.items():
            if name == "conv" or self.calls % 3 == 0:
                wrapper.step()
            wrapper.zero_grad()
        return log


def test_optimizers_that_step_in_different_iterations(tmp_path):
    """Every row of every record has values, flips being those between two records."""

    class Heads(Hook):
        def __init__(self):
            self.weight = []

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            self.weight.append(runner.model.head.weight.detach().clone())

    def run(path, epochs, **kwargs):
        model, heads = Turns(), Heads()
        wrapper = OptimWrapperDict(
            conv=OptimWrapper(torch.optim.Adam(model.conv.parameters(), lr=0.05)),
            head=OptimWrapper(torch.optim.Adam(model.head.parameters(), lr=0.3)),
        )
        return train(path, [OscillationHook(interval=2), heads], epochs, model, wrapper=wrapper, **kwargs)[1], heads

    start, heads = run(tmp_path / "whole", 2)
    record = read_oscillation(tmp_path / "whole")
    assert record.iteration.tolist() == [2, 4, 6, 8, 10, 12]
    signs = [(w >= 0).numpy() for w in [start["head.weight"], *heads.weight]][::2]
    expected = [(a != b).mean() for a, b in zip(signs[:-1], signs[1:], strict=True)]
    assert any(expected)
    np.testing.assert_allclose(record.values["flip_share"][:, 1], expected, rtol=1e-6)
    for name in ("flip_share", "flip_back_share", "update_flip_share", "band_share", "gamma_mean", "alpha_mean"):
        assert np.isfinite(record.values[name]).all(), name
    # iterations 3 and 6, 9 and 12: the records with an update of the head have its gradient
    assert np.isfinite(record.values["task_grad"][:, 1]).tolist() == [False, True, True, False, True, True]
