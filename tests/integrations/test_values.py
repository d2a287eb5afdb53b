"""Values that mmengine's runner reads by itself."""

import inspect

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from rebnn_mm.errors import UserError
from rebnn_mm.integrations.config import apply_options
from rebnn_mm.integrations.values import RANDOMNESS_NAMES, check_values


def config():
    return Config(
        dict(
            model=dict(type="Toy"),
            train_dataloader=dict(batch_size=2, num_workers=0, dataset=dict(type="Toy"), num_batch_per_epoch=3),
            val_dataloader=None,
            train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1),
            optim_wrapper=dict(optimizer=dict(type="Adam", lr=1e-3), clip_grad=None),
            param_scheduler=[dict(type="LinearLR", begin=0, end=5, start_factor=0.1)],
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=-1), logger=None),
            custom_hooks=[dict(type="BalanceHook")],
            randomness=dict(seed=None),
        )
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optim_wrapper.optimizer.lr", "abc", "optim_wrapper.optimizer.lr='abc': a number is needed"),
        ("optim_wrapper.optimizer.weight_decay", [1], r"weight_decay=\[1\]: a number is needed"),
        ("optim_wrapper.optimizer", "Adam", "optim_wrapper.optimizer='Adam': a dict is needed"),
        ("optim_wrapper.clip_grad", 3, "clip_grad=3: a dict is needed"),
        ("optim_wrapper", 3, "optim_wrapper=3: a dict is needed"),
        ("train_dataloader.batch_sz", 4, "train_dataloader: 'batch_sz' is unknown; did you mean batch_size?"),
        ("train_dataloader.batch_size", "x", "train_dataloader.batch_size='x': a whole number from 1 on is needed"),
        ("train_dataloader.batch_size", 2.5, "batch_size=2.5: a whole number"),
        ("train_dataloader.drop_last", 7, "train_dataloader.drop_last=7: True or False is needed"),
        ("log_level", "abc", "log_level='abc': a whole number, or one of CRITICAL, .*INFO"),
        ("train_dataloader.num_workers", -1, "num_workers=-1: a whole number from 0 on is needed"),
        ("train_dataloader", 3, "train_dataloader=3: a dict is needed"),
        ("train_cfg.max_epochs", "one", "train_cfg.max_epochs='one': a whole number from 1 on is needed"),
        ("train_cfg.max_epochs", float("inf"), "max_epochs=inf: a whole number"),
        ("train_cfg.val_interval", True, "val_interval=True: a whole number"),
        ("train_cfg", 3, "train_cfg=3: a dict is needed"),
        ("randomness.seed", "abc", "randomness.seed='abc': a whole number from 0 to 2..32 - 1, or None is needed"),
        ("randomness.seed", -1, "randomness.seed=-1: a whole number from 0"),
        ("randomness.sed", 1, "randomness: 'sed' is unknown; did you mean seed?"),
        ("param_scheduler.0.end", "x", "param_scheduler.0.end='x': a number is needed"),
        ("param_scheduler", 3, "param_scheduler=3: a dict or a list is needed"),
        ("default_hooks.checkpoint", 3, "default_hooks.checkpoint=3: a dict is needed"),
        ("default_hooks.checkpoint.interval", "x", "default_hooks.checkpoint.interval='x': a whole number is needed"),
        ("default_hooks", 3, "default_hooks=3: a dict is needed"),
        ("custom_hooks", 3, "custom_hooks=3: a list is needed"),
        ("custom_hooks", [3], "custom_hooks.0=3: a dict is needed"),
        ("env_cfg", 3, "env_cfg=3: a dict is needed"),
        ("model", 3, "model=3: a dict is needed"),
        (
            "optim_wrapper.paramwise_cfg",
            dict(latent_lr_mult=10),
            "latent_lr_mult is read by one constructor alone: set optim_wrapper.constructor='LatentWeightConstructor'",
        ),
        (
            "optim_wrapper",
            dict(constructor="LatentWeightConstructor", paramwise_cfg=dict(latent_lr_mul=10)),
            "did you mean latent_lr_mult?",
        ),
    ],
)
def test_refusals(key, value, message):
    cfg = config()
    check_values(cfg)
    apply_options(cfg, {key: value})
    with pytest.raises(UserError, match=message):
        check_values(cfg)


def test_a_scheduler_that_is_no_list_is_checked():
    cfg = config()
    cfg.param_scheduler = dict(type="LinearLR", begin=0, end=5)
    check_values(cfg)
    cfg.param_scheduler.begin = "x"
    with pytest.raises(UserError, match="param_scheduler.begin='x': a whole number is needed"):
        check_values(cfg)


@pytest.mark.parametrize(
    "options",
    [
        {"train_cfg.max_iters": 1e5, "train_cfg.max_epochs": None},
        {"optim_wrapper.optimizer.lr": 1, "optim_wrapper.optimizer.momentum": None},
        {"optim_wrapper": dict(constructor="Several", one=dict(optimizer=dict(type="SGD", lr=1)))},
        {"optim_wrapper.paramwise_cfg": dict(read_by_mine=1), "optim_wrapper.constructor": "mine.Constructor"},
        {"param_scheduler": [dict(type="MultiStepLR", milestones=[1]), None]},
        {"train_dataloader.prefetch_factor": 2, "train_dataloader.collate_fn": dict(type="default_collate")},
        {"log_level": 20},
        {"custom_hooks": None, "randomness": dict(seed=0, deterministic=True)},
    ],
)
def test_what_mmengine_takes_is_let_through(options):
    cfg = config()
    apply_options(cfg, options)
    check_values(cfg)


def test_mmengine_reads_the_names_that_are_known():
    assert set(inspect.signature(Runner.set_randomness).parameters) - {"self"} == RANDOMNESS_NAMES
