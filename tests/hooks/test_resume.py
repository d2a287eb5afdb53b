"""A resumed run follows the config that it is given: its rates are those of a run that had this config all along."""

import copy
import logging
import uuid

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import DATASETS, HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from rebnn_mm.errors import UserError
from rebnn_mm.hooks.config_changes import read_values
from rebnn_mm.hooks.resume import ResumeHook

pytestmark = pytest.mark.slow


@MODELS.register_module(force=True)
class ResumeToy(BaseModel):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(2, 2), nn.Linear(2, 1)

    def forward(self, x, mode="loss"):
        return dict(loss=self.head(self.body(torch.stack(list(x)))).square().mean())

    def train_step(self, data, optim_wrapper):
        if not isinstance(optim_wrapper, OptimWrapperDict):
            return super().train_step(data, optim_wrapper)
        loss = self(**self.data_preprocessor(data, True))["loss"]
        for wrapper in optim_wrapper.values():
            wrapper.zero_grad()
        loss.backward()
        for wrapper in optim_wrapper.values():
            wrapper.step()
        return dict(loss=loss)


@DATASETS.register_module(force=True)
class ResumeData(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        return dict(x=torch.full((2,), index / 12.0))


@HOOKS.register_module(force=True)
class RateRecord(Hook):
    """Learning rate, weight decay of every group in every iteration."""

    priority = "VERY_HIGH"

    def __init__(self):
        self.rows = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        groups = runner.optim_wrapper.param_groups
        groups = groups if isinstance(groups, list) else sum(groups.values(), [])
        self.rows[runner.iter] = [(group["lr"], group["weight_decay"]) for group in groups]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)
class TwoOptimizers:
    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        self.rates = optim_wrapper_cfg

    def __call__(self, model):
        return OptimWrapperDict(
            **{
                name: OptimWrapper(torch.optim.SGD(getattr(model, name).parameters(), lr=self.rates[name]))
                for name in ("body", "head")
            }
        )


LINEAR = dict(type="LinearLR", start_factor=1.0, end_factor=0.0, by_epoch=True, convert_to_iter_based=True)
COSINE = dict(type="CosineAnnealingLR", by_epoch=True, begin=0, convert_to_iter_based=True)
WARM = dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=4)
STEPS = dict(type="MultiStepLR", milestones=[1, 3], by_epoch=True)
ITERS = {"train_cfg": dict(by_epoch=False, max_iters=12), "default_hooks.checkpoint.by_epoch": False}
ITERS |= {"default_hooks.checkpoint.interval": 3, "param_scheduler": dict(type="CosineAnnealingLR", by_epoch=False)}


def config(tmp_path, options):
    cfg = Config(
        dict(
            model=dict(type="ResumeToy"),
            work_dir=str(tmp_path),
            train_dataloader=dict(
                dataset=dict(type="ResumeData"),
                batch_size=4,
                num_workers=0,
                sampler=dict(type="DefaultSampler", shuffle=False),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=4),
            optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="Adam", lr=0.1, weight_decay=0.0)),
            param_scheduler=[LINEAR],
            default_hooks=dict(checkpoint=dict(type="ResilientCheckpointHook", interval=1)),
            custom_hooks=[dict(type="RateRecord"), dict(type="ResumeHook")],
            log_level="INFO",
            randomness=dict(seed=0),
            experiment_name=uuid.uuid4().hex,
        )
    )
    options = copy.deepcopy(options)
    for name in ("train_cfg", "param_scheduler", "custom_hooks"):
        if name in options:
            cfg[name] = options.pop(name)
    cfg.merge_from_dict(options)
    return cfg


def train(tmp_path, options, resume=None):
    """The runner after training and what it recorded."""
    cfg = config(tmp_path, options)
    if resume:
        cfg.load_from, cfg.resume = str(resume), True
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner, next(hook.rows for hook in runner.hooks if isinstance(hook, RateRecord))


def said(tmp_path):
    return "".join(path.read_text() for path in tmp_path.glob("**/*.log"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"optim_wrapper.optimizer.lr": 0.001}),
        ({}, {"train_cfg.max_epochs": 6}),
        ({}, {"train_cfg.max_epochs": 3}),
        ({}, {"optim_wrapper.optimizer.weight_decay": 0.05}),
        ({}, {"param_scheduler": [WARM, COSINE]}),
        ({}, {"param_scheduler": None}),
        ({"param_scheduler": None}, {"param_scheduler": [COSINE], "train_cfg.max_epochs": 5}),
        ({"param_scheduler": None}, {"optim_wrapper.optimizer.lr": 0.001}),
        ({"param_scheduler": [WARM, STEPS]}, {"optim_wrapper.optimizer.lr": 0.02}),
        ({"param_scheduler": [WARM, STEPS]}, {"param_scheduler": [dict(STEPS, gamma=0.5)]}),
        ({"param_scheduler": [WARM, COSINE]}, {"train_cfg.max_epochs": 8, "optim_wrapper.optimizer.lr": 0.3}),
        ({"param_scheduler": dict(type="ExponentialLR", gamma=0.5)}, {"param_scheduler": dict(type="PolyLR", power=2)}),
        (ITERS, {"train_cfg.max_iters": 20}),
        (ITERS, {"optim_wrapper.optimizer.lr": 0.01}),
        (
            {"optim_wrapper.paramwise_cfg": dict(custom_keys={"head": dict(lr_mult=0.1)})},
            {"optim_wrapper.paramwise_cfg.custom_keys.head.lr_mult": 0.5},
        ),
        (
            {"optim_wrapper": dict(constructor="TwoOptimizers", body=0.1, head=0.2)},
            {"optim_wrapper.head": 0.01, "train_cfg.max_epochs": 5},
        ),
        (
            {"custom_hooks": [dict(type="RateRecord"), dict(type="ResumeHook"), dict(type="EMAHook")]},
            {"log_level": "INFO"},
        ),
    ],
)
def test_rates_are_those_of_a_run_that_had_the_new_config_all_along(tmp_path, before, after):
    train(tmp_path / "a", before)
    resume = tmp_path / "a" / ("iter_6.pth" if before is ITERS else "epoch_2.pth")
    new = {**before, **after}
    _, expected = train(tmp_path / "b", new)
    _, rows = train(tmp_path / "c", new, resume)
    assert list(rows) == list(expected)[6:] and rows
    for step, row in rows.items():
        assert row == pytest.approx(expected[step], rel=1e-6, abs=1e-12) or all(
            pair == pytest.approx(other, rel=1e-6, abs=1e-12) for pair, other in zip(row, expected[step], strict=True)
        ), step
    if after != {"log_level": "INFO"}:
        assert "the config was changed since the checkpoint was saved" in said(tmp_path / "c")


@pytest.mark.parametrize("options", [{}, ITERS, {"param_scheduler": [WARM, COSINE]}])
def test_unchanged_is_bit_for_bit(tmp_path, options):
    whole, expected = train(tmp_path / "a", options)
    resume = tmp_path / "a" / ("iter_6.pth" if options is ITERS else "epoch_2.pth")
    runner, rows = train(tmp_path / "c", options, resume)
    assert rows == {step: expected[step] for step in rows} and len(rows) == 6
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, runner.model.state_dict()[name])
    assert "config was changed" not in said(tmp_path / "c")


def test_moments_of_an_older_shape_go_on(tmp_path):
    """Alpha of (C_out, 1, 1, 1) became (C_out,), and so its moments."""
    whole, _ = train(tmp_path / "a", {})
    checkpoint = torch.load(tmp_path / "a" / "epoch_2.pth", weights_only=False)
    older = [m for m in checkpoint["optimizer"]["state"].values() if m["exp_avg"].shape == (2,)]
    assert len(older) == 1
    for name in ("exp_avg", "exp_avg_sq"):
        older[0][name] = older[0][name].view(2, 1, 1, 1)
    torch.save(checkpoint, tmp_path / "older.pth")
    runner, _ = train(tmp_path / "c", {}, tmp_path / "older.pth")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, runner.model.state_dict()[name])


def test_moments_are_kept_and_the_sentence_names_old_and_new(tmp_path):
    train(tmp_path / "a", {"train_cfg.max_epochs": 1})
    seen = {}

    class Look(Hook):
        def before_train(self, runner):
            seen["steps"] = [float(state["step"]) for state in runner.optim_wrapper.optimizer.state.values()]

    cfg = config(tmp_path / "c", {"optim_wrapper.optimizer.lr": 0.001})
    cfg.load_from, cfg.resume = str(tmp_path / "a" / "epoch_1.pth"), True
    runner = Runner.from_cfg(cfg)
    runner.register_hook(Look())
    runner.train()
    assert seen["steps"] == [3.0] * 4
    sentence = said(tmp_path / "c")
    assert "optim_wrapper.optimizer.lr 0.1 -> 0.001, train_cfg.max_epochs 1 -> 4" in sentence
    assert "from here on lr=0.0007" in sentence


def test_longer_epochs_count_by_epoch(tmp_path):
    train(tmp_path / "a", {})
    _, rows = train(tmp_path / "c", {"train_dataloader.batch_size": 2}, tmp_path / "a" / "epoch_2.pth")
    _, expected = train(tmp_path / "b", {"train_dataloader.batch_size": 2})
    assert list(rows) == list(range(12, 24))
    assert rows[12] == [pytest.approx(pair) for pair in expected[12]]
    assert "an epoch has 6 iterations and had 3: iteration 6 counts as 12" in said(tmp_path / "c")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optim_wrapper.optimizer.type": "SGD"}, "optimizer.type was Adam and is SGD now.*load_from=PATH"),
        (
            {"optim_wrapper.paramwise_cfg": dict(custom_keys={"head": dict(lr_mult=0.1)})},
            "5 parameter groups of 5 tensors, in the checkpoint 1 of 4; paramwise_cfg",
        ),
        ({"train_cfg.max_epochs": 1}, "max_epochs=1, and 2 epochs are done.*give a greater number"),
        ({"train_cfg": dict(by_epoch=False, max_iters=12)}, "counts iters, the checkpoint"),
    ],
)
def test_what_cannot_take_effect_is_refused(tmp_path, options, message):
    train(tmp_path / "a", {})
    with pytest.raises(UserError, match=f"(?s){message}"):
        train(tmp_path / "c", options, tmp_path / "a" / "epoch_2.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "4 of 4 epochs are done: nothing is left to train; train_cfg.max_epochs=N"),
        (
            {"train_cfg.max_epochs": 5, "param_scheduler": [dict(LINEAR, end=4)]},
            "the learning rate stays 0 after 4 of 5 epochs: param_scheduler has come to its end",
        ),
        ({"randomness.seed": 7}, "randomness.seed=7 has no effect, a resumed run keeps its seed 0"),
    ],
)
def test_what_is_kept_is_said(tmp_path, options, message):
    train(tmp_path / "a", {})
    train(tmp_path / "c", options, tmp_path / "a" / "epoch_4.pth")
    assert message in said(tmp_path / "c")


def test_checkpoint_without_a_readable_config_is_compared_by_its_settings(tmp_path):
    train(tmp_path / "a", {})
    checkpoint = torch.load(tmp_path / "a" / "epoch_2.pth", weights_only=False)
    checkpoint["meta"]["cfg"] = "this is no config ("
    torch.save(checkpoint, tmp_path / "bare.pth")
    _, rows = train(tmp_path / "c", {"optim_wrapper.optimizer.lr": 0.001}, tmp_path / "bare.pth")
    _, expected = train(tmp_path / "b", {"optim_wrapper.optimizer.lr": 0.001})
    assert rows[6] == [pytest.approx(pair) for pair in expected[6]]
    assert "from here on lr=0.0004545" in said(tmp_path / "c")


def test_values_are_read_and_not_run():
    text = "a = dict(b=[1, dict(c='d')], e=(2.0, None))\nf = {'x y': -1}\ng = __import__('os').getcwd()\nh = torch.x\n"
    assert read_values(text) == {
        "a": {"b": [1, {"c": "d"}], "e": [2.0, None]},
        "f": {"x y": -1},
        "g": "__import__('os').getcwd()",
        "h": "torch.x",
    }
    assert read_values("a = (") == {}


def test_a_run_that_starts_anew_is_left_alone(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        train(tmp_path / "a", {})
        train(tmp_path / "b", {"load_from": str(tmp_path / "a" / "epoch_1.pth"), "optim_wrapper.optimizer.lr": 0.001})
    assert "--resume" not in said(tmp_path / "b")
    assert isinstance(HOOKS.build(dict(type="ResumeHook")), ResumeHook)
