"""Warnings about a training that its record shows to be in trouble."""

import logging

import numpy as np
import pytest
import torch
from binary_toy import Toy
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from rebnn_mm.files.oscillation import COLUMNS, Header
from rebnn_mm.hooks import OscillationHook, oscillation
from rebnn_mm.hooks.trouble import Trouble

HEADER = Header(
    layers=("a", "b", "linear"),
    weights=(90, 90, 4),
    channels=(10, 10, 4),
    interval=50,
    window=3,
    band=0.1,
    iterations_per_epoch=100,
)


def record(**columns):
    """A healthy record, with the columns named set for each layer."""
    values = np.full((3, len(COLUMNS)), 0.01)
    for name, given in columns.items():
        values[:, list(COLUMNS).index(name)] = given
    return values


def trouble(clipped=(True, True, True)):
    return Trouble(HEADER, clipped)


def test_a_healthy_run_is_left_alone():
    watched = trouble()
    for progress in np.linspace(0, 1, 20):
        assert watched.read(record(saturated_share=0.1, gamma_mean=np.nan), progress) == []


def test_saturated_weights_are_said_once():
    watched = trouble()
    (text,) = watched.read(record(saturated_share=[0.2, 0.0, 0.5]), 0.1)
    assert "in 2 of 3 1-bit layers more than a tenth" in text and "most in linear, 50%" in text
    assert text.startswith("OscillationHook: ") and "docs/oscillation.md" in text
    assert watched.read(record(saturated_share=1.0), 0.2) == []


def test_methods_that_standardize_do_not_saturate():
    assert trouble(clipped=(False, False, False)).read(record(saturated_share=0.9), 0.1) == []


def test_a_layer_of_one_sign():
    (text,) = trouble().read(record(dead_channel_share=[1, 0.9, 1]), 0.1)
    assert "every output channel of a has weights of one sign" in text and "other layers" not in text
    (text,) = trouble().read(record(dead_channel_share=1), 0.1)
    assert "so have 1 other layers" in text  # the linear layer's channels have one weight each
    assert trouble().read(record(dead_channel_share=[0, 0.9, 1]), 0.1) == []


def test_signs_that_rest_too_early():
    still, watched = record(flip_share=0, update_flip_share=0), trouble()
    assert watched.read(still, 0.1) == watched.read(still, 0.2) == []
    assert watched.read(record(), 0.3) == watched.read(still, 0.4) == watched.read(still, 0.5) == []
    (text,) = watched.read(still, 0.6)
    assert "no sign of the network has flipped in the last 150 updates, after 60% of the training" in text
    assert watched.read(still, 0.7) == []
    late = trouble()
    assert all(late.read(still, progress) == [] for progress in (0.6, 0.7, 0.8, 0.9, 1.0))


@pytest.mark.parametrize("scale, expected", [(0.1, 0), (30.0, 1)])
def test_a_run_warns(tmp_path, monkeypatch, scale, expected):
    said = []
    monkeypatch.setattr(oscillation, "print_log", lambda text, **kwargs: said.append((kwargs["level"], text)))
    model = Toy()
    model.conv.weight.data.uniform_(-scale, scale)
    runner = Runner(
        model,
        str(tmp_path),
        train_dataloader=DataLoader(list(torch.randn(6, 3, 6, 6)), collate_fn=lambda b: dict(x=torch.stack(b))),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=1e-3)),
        custom_hooks=[OscillationHook(interval=2)],
        experiment_name=f"trouble{scale}",
        log_level="ERROR",
    )
    runner.train()
    assert sum("beyond 1" in text and level == logging.WARNING for level, text in said) == expected
