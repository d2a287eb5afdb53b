import random

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import FUNCTIONS

from rebnn_mm.hooks.epoch_seed import EpochSeedHook, seed_worker

SEEDED = dict(worker_init_fn=dict(type="seed_worker"))


class Batches(Hook):
    """Keep the batches of each epoch."""

    def __init__(self):
        self.seen = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen.setdefault(runner.epoch, []).append(torch.stack(data_batch["x"]))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_run_equals_the_uninterrupted_one(make_runner, tmp_path, workers):
    def run(name, epochs, **kwargs):
        # the evaluation between saving and going on draws random numbers as well
        runner = make_runner(
            epochs,
            hooks=[EpochSeedHook()],
            scores=[0.1, 0.2, 0.3, 0.4],
            workers=workers,
            loader=SEEDED,
            work_dir=tmp_path / name,
            **kwargs,
        )
        if kwargs:
            torch.randn(17), np.random.rand(5)  # a new process is in some other state
        runner.train()
        return runner.model.state_dict()

    torch.manual_seed(0)
    whole = run("whole", 4)
    torch.manual_seed(0)
    run("half", 2)
    resumed = run("half", 4, resume=True)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_differ_and_so_do_workers(make_runner, workers):
    batches = Batches()
    hooks = [EpochSeedHook(), batches]
    make_runner(2, hooks=hooks, workers=workers, loader=SEEDED).train()
    first, second = (torch.cat(batches.seen[epoch]) for epoch in (0, 1))
    assert first.shape == second.shape == (8, 4)
    # the noise alone: without the sample's own value, which is a constant of the vector
    noise = [(x - x.mean(1, keepdim=True)) for x in (first, second)]
    assert len({tuple(row.tolist()) for row in torch.cat(noise)}) == 16


def test_ranks_and_seeds_get_their_own_numbers(make_runner, monkeypatch):
    runner = make_runner()

    def draw(rank, seed):
        monkeypatch.setattr("rebnn_mm.hooks.epoch_seed.get_rank", lambda: rank)
        monkeypatch.setattr(runner, "_seed", seed)
        EpochSeedHook().before_train_epoch(runner)
        return random.random(), np.random.rand(), torch.rand(()).item()

    draws = [draw(0, 3), draw(1, 3), draw(0, 4), draw(0, 3)]
    assert draws[0] == draws[3]
    for numbers in zip(*draws[:3], strict=True):
        assert len(set(numbers)) == 3


def test_seed_worker_follows_torch():
    assert FUNCTIONS.get("seed_worker") is seed_worker

    def draw(seed):
        torch.manual_seed(seed)
        seed_worker(0, anything="else")
        return random.random(), np.random.rand(), torch.rand(()).item()

    state = torch.get_rng_state()
    assert draw(5) == draw(5)
    assert not set(draw(5)) & set(draw(6))
    torch.set_rng_state(state)


def test_warns_about_persistent_workers(make_runner, monkeypatch):
    said = []
    monkeypatch.setattr("rebnn_mm.hooks.epoch_seed.print_log", lambda message, **kwargs: said.append(message))
    runner = make_runner(workers=2)
    EpochSeedHook().before_train(runner)
    assert said == []
    loader = runner.build_dataloader(dict(runner._train_dataloader, persistent_workers=True))
    monkeypatch.setattr(type(runner), "train_dataloader", loader)
    EpochSeedHook().before_train(runner)
    assert "persistent_workers=True" in said[0]
