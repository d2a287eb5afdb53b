import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch import nn

from rebnn_mm.estimators import EDE
from rebnn_mm.hooks import EDEHook, ReCUHook
from rebnn_mm.layers import IRNetConv2d, ReBNNConv2d, ReCUConv2d


class Toy(BaseModel):
    def __init__(self, conv):
        super().__init__()
        self.conv, self.wrapped = conv(1, 4, (1, 2)), nn.Sequential(conv(4, 4, 1))

    def forward(self, x, mode="loss"):
        return dict(loss=self.wrapped(self.conv(torch.stack(x)[:, None, None])).square().mean())


class Record(Hook):
    """Keep what the layers had in each forward, and the scalars that LoggerHook would read."""

    priority = "LOW"

    def __init__(self, read, scalar):
        self.read, self.scalar, self.values, self.logged = read, scalar, [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.values.append({self.read(m) for m in runner.model.modules() if isinstance(m, EDE | ReCUConv2d)})
        self.logged.append(runner.message_hub.get_scalar(self.scalar).current())


def schedule(make_runner, conv, hook, read, scalar, **kwargs):
    record = Record(read, scalar)
    make_runner(model=Toy(conv), hooks=[hook, record], **kwargs).train()
    assert [{value} for value in record.logged] == record.values  # all modules alike
    return record.logged


def ede(make_runner, **kwargs):
    return schedule(make_runner, IRNetConv2d, EDEHook(), lambda m: m.t, "train/ede/t", **kwargs)


def test_sharpness_grows_from_01_to_10(make_runner):
    logged = ede(make_runner, epochs=2)  # 4 iterations each
    assert len(logged) == 8 and logged[0] == 0.1 and all(value < 10 for value in logged)
    for index, value in enumerate(logged):
        assert math.isclose(value, 10 ** (2 * index / 8 - 1), rel_tol=1e-12)
    assert EDEHook(0.001, 5).value(1) == pytest.approx(5)


def test_quantile_follows_the_exponential(make_runner):
    logged = schedule(make_runner, ReCUConv2d, ReCUHook(), lambda m: m.tau, "train/recu/tau", epochs=1)
    a = (0.99 - 0.85) / (math.e - 1)
    assert logged == pytest.approx([a * math.exp(i / 4) + 0.85 - a for i in range(4)], rel=1e-12)
    assert ReCUHook(0.6, 0.7).value(0) == 0.6 and ReCUHook(0.6, 0.7).value(1) == pytest.approx(0.7)


def test_resumed_and_iteration_based_runs_have_the_same_curve(make_runner, tmp_path):
    whole = ede(make_runner, epochs=2, work_dir=tmp_path / "whole")
    loop = dict(type="IterBasedTrainLoop", max_iters=8)
    assert ede(make_runner, train_cfg=loop, checkpoint=dict(type="CheckpointHook", by_epoch=False)) == whole
    (tmp_path / "whole" / "epoch_2.pth").unlink()
    (tmp_path / "whole" / "last_checkpoint").write_text(str(tmp_path / "whole" / "epoch_1.pth"))
    assert ede(make_runner, epochs=2, work_dir=tmp_path / "whole", resume=True) == whole[4:]


@pytest.mark.parametrize(
    ("hook", "message"),
    [(EDEHook, "EDEHook: the model has no EDE.*IRNetConv2d"), (ReCUHook, "ReCUHook: .* no ReCULayer.*ReCUConv2d")],
)
def test_a_model_without_the_method_is_refused(make_runner, hook, message):
    with pytest.raises(ValueError, match=message):
        make_runner(model=Toy(ReBNNConv2d), hooks=[hook()]).train()


@pytest.mark.parametrize(
    ("hook", "options"),
    [
        (EDEHook, dict(t_min=0)),
        (EDEHook, dict(t_min=2, t_max=1)),
        (EDEHook, dict(t_max=math.inf)),
        (ReCUHook, dict(tau_min=0.5)),
        (ReCUHook, dict(tau_max=1)),
        (ReCUHook, dict(tau_min=0.9, tau_max=0.8)),
        (ReCUHook, dict(tau_max=math.nan)),
    ],
)
def test_bad_options(hook, options):
    with pytest.raises(ValueError, match=f"{hook.__name__}: .* must be"):
        hook(**options)
