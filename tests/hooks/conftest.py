"""A toy model, data set and metric on a real mmengine runner."""

import uuid

import pytest
import torch
from binary_toy import train_ranks
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset


class Scaled(nn.Module):
    """A layer that holds another and computes itself, as a ReBNN layer does."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()
        self.scale = 1.0

    def forward(self, x):
        return self.inner(x) * self.scale


class ToyModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.middle = Scaled()
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(8, 1)
        self.extra_loss = torch.zeros(())

    def forward(self, x, mode="tensor"):
        x = torch.stack(x) if isinstance(x, list) else x
        y = self.last(self.drop(self.middle(self.first(x))))
        if mode != "loss":
            return [y]
        return dict(loss_fit=(y - 1).square().mean(), loss_levels=[y.abs().mean() * 0.1, self.extra_loss], acc=y.mean())


class ToyData(Dataset):
    """Eight vectors; the noise comes from torch's and numpy's global generators, as an augmentation's does."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        import numpy as np

        return dict(x=torch.full((4,), index / 8.0) + 0.1 * torch.randn(4) + 0.1 * float(np.random.rand()))


class Scores(BaseMetric):
    """Returns the given scores, one an evaluation."""

    def __init__(self, scores):
        super().__init__()
        self.scores = list(scores)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        score = self.scores.pop(0)
        return dict(acc=score, f1=1 - score)


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    """Number of processes, 1 and 2 -> (work dir, what :func:`train_ranks` gives) of one training with both hooks."""
    hooks = (dict(type="BalanceHook", magnitude="gradient"), dict(type="OscillationHook", interval=2))
    folder = tmp_path_factory.mktemp("ranks")
    return {n: (folder / str(n) / "work", train_ranks(n, folder / str(n), *hooks)) for n in (1, 2)}


@pytest.fixture
def make_runner(tmp_path):
    def make(epochs=1, hooks=(), checkpoint=None, scores=None, workers=0, loader=None, model=None, **kwargs):
        data = dict(dataset=ToyData(), batch_size=2, num_workers=workers, persistent_workers=False)
        if scores is not None:
            kwargs.update(
                val_cfg=dict(),
                val_dataloader=dict(sampler=dict(type="DefaultSampler", shuffle=False), **data),
                val_evaluator=[Scores(scores)],
            )
        return Runner(
            model=model or ToyModel(),
            work_dir=str(kwargs.pop("work_dir", tmp_path / "work")),
            train_dataloader=dict(sampler=dict(type="DefaultSampler", shuffle=True), **data, **(loader or {})),
            train_cfg=kwargs.pop("train_cfg", dict(by_epoch=True, max_epochs=epochs)),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.05, momentum=0.9)),
            default_hooks=dict(checkpoint=checkpoint or dict(type="CheckpointHook", interval=1)),
            custom_hooks=list(hooks),
            randomness=dict(seed=3),
            log_level="WARNING",
            experiment_name=uuid.uuid4().hex,
            **kwargs,
        )

    return make
