"""Statistics of batch norms, estimated again: of a toy in a whole training, and of the three kinds of model."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from rebnn_mm.hooks.norm_statistics import NormStatisticsHook, estimate, norms_in_training
from rebnn_mm.integrations.build import build_model, read_config
from rebnn_mm.layers import ReBNNConv2d
from rebnn_mm.layers.norm import InputNorm

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
EMA = dict(type="EMAHook", momentum=0.3, update_buffers=True)


class Net(BaseModel):
    """A 1-bit layer with a norm in front of its sign and one behind it; the data are the batches' vectors."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = ReBNNConv2d(1, 4, (1, 2), input_norm=InputNorm(1)), nn.BatchNorm2d(4)
        self.frozen = nn.BatchNorm2d(4)

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x, mode="loss"):
        x = torch.stack(x) if isinstance(x, list) else x
        y = self.frozen(self.norm(self.conv(x[:, None, None])))
        return dict(loss=(y - 1).square().mean()) if mode == "loss" else [y]


def statistics(model):
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _NormBase)}
    return {name: torch.stack([norm.running_mean, norm.running_var]) for name, norm in norms.items()}


def net():
    torch.manual_seed(0)
    return Net().train()


def test_each_norm_takes_the_average_of_the_batches_means_and_variances():
    model, batches = net(), [dict(x=torch.randn(6, 4)) for _ in range(3)]
    model.conv.input_norm.running_mean.fill_(7)
    before = statistics(model)["frozen"]
    assert estimate(model, batches) == 2
    found = statistics(model)
    inputs = [batch["x"] for batch in batches]
    expected = torch.stack([sum(x.mean() for x in inputs) / 3, sum(x.var() for x in inputs) / 3])[:, None]
    torch.testing.assert_close(found["conv.input_norm"], expected)
    outputs = [model.conv(x[:, None, None]).transpose(0, 1).flatten(1) for x in inputs]
    expected = torch.stack([sum(y.mean(1) for y in outputs) / 3, sum(y.var(1) for y in outputs) / 3])
    torch.testing.assert_close(found["norm"], expected)
    assert torch.equal(found["frozen"], before)
    assert model.norm.momentum == 0.1 and int(model.norm.num_batches_tracked) == 0


def test_what_was_there_comes_back_after_an_error():
    model = net()
    model.norm.running_mean.fill_(7)
    before = statistics(model)
    with pytest.raises(TypeError):
        estimate(model, [dict(nothing=1)])
    assert model.norm.momentum == 0.1
    with pytest.raises(ValueError, match="there is none"):
        estimate(model, [])
    after = statistics(model)
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_a_norm_that_no_batch_reaches_keeps_its_statistics():
    model = net()
    model.for_predictions = nn.BatchNorm2d(3)
    model.for_predictions.running_mean.fill_(5), model.for_predictions.running_var.fill_(9)
    before = statistics(model)
    estimate(model, [dict(x=[torch.randn(4) for _ in range(8)])])
    after = statistics(model)
    assert torch.equal(after["for_predictions"], before["for_predictions"])
    assert not torch.equal(after["norm"], before["norm"])


def train(make_runner, tmp_path, folder, *hooks, epochs=2, **options):
    hooks = [dict(type="EpochSeedHook"), *hooks]
    runner = make_runner(epochs, model=net(), hooks=hooks, work_dir=tmp_path / folder, scores=range(9), **options)
    runner.train()
    return runner


def saved(tmp_path, folder):
    return torch.load(tmp_path / folder / "epoch_2.pth", weights_only=False)["state_dict"]


def test_what_is_saved_has_the_statistics_of_the_last_weights(make_runner, tmp_path):
    train(make_runner, tmp_path, "plain")
    runner = train(make_runner, tmp_path, "again", dict(type="NormStatisticsHook"))
    plain, again = saved(tmp_path, "plain"), saved(tmp_path, "again")
    assert torch.equal(plain["conv.weight"], again["conv.weight"])  # only statistics differ
    assert not torch.equal(plain["norm.running_var"], again["norm.running_var"])
    # noise on the data makes another batch a little different
    other = copy.deepcopy(runner.model).train()
    estimate(other, runner.train_dataloader)
    torch.testing.assert_close(again["norm.running_var"], other.norm.running_var, rtol=0.3, atol=0.05)


def test_an_average_has_statistics_of_its_own_and_is_evaluated_with_them(make_runner, tmp_path):
    runner = train(make_runner, tmp_path, "ema", dict(type="NormStatisticsHook"), EMA)
    average = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model.module
    state = saved(tmp_path, "ema")  # mmengine saves the average where models are loaded from
    for name, (mean, variance) in statistics(average).items():
        assert torch.equal(state[f"{name}.running_mean"], mean) and torch.equal(state[f"{name}.running_var"], variance)
    assert not torch.equal(state["norm.running_mean"], runner.model.norm.running_mean)
    other = copy.deepcopy(average).train()
    estimate(other, runner.train_dataloader)
    torch.testing.assert_close(state["norm.running_var"], other.norm.running_var, rtol=0.3, atol=0.05)


def test_a_resumed_training_is_the_whole_one(make_runner, tmp_path):
    hook = dict(type="NormStatisticsHook", batches=3)
    whole = train(make_runner, tmp_path, "a", hook, EMA)
    (tmp_path / "a" / "epoch_2.pth").unlink()
    options = dict(resume=True, load_from=str(tmp_path / "a" / "epoch_1.pth"))
    again = train(make_runner, tmp_path, "a", hook, EMA, **options)
    ours, theirs = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("hooks", "options", "message"),
    [
        ([dict(type="EMAHook")], {}, "update_buffers=True"),
        ([dict(type="NormStatisticsHook")], {}, "there 2 times"),
        ([], dict(train_cfg=dict(by_epoch=False, max_iters=2, val_interval=1)), "at the end of epochs"),
    ],
)
def test_what_would_not_work_is_refused(make_runner, tmp_path, hooks, options, message):
    with pytest.raises(ValueError, match=message):
        train(make_runner, tmp_path, "bad", dict(type="NormStatisticsHook"), *hooks, **options)


def test_a_model_without_batch_norms_is_refused(make_runner):
    with pytest.raises(ValueError, match="no batch norm that trains"):
        make_runner(hooks=[dict(type="NormStatisticsHook")]).train()


@pytest.mark.parametrize("options", [dict(batches=0), dict(batches=True), dict(interval=0), dict(interval=1.5)])
def test_numbers_are_positive_integers(options):
    with pytest.raises(ValueError, match="must be a whole number >= 1"):
        NormStatisticsHook(**options)


def classifier():
    pytest.importorskip("mmpretrain.models")
    from mmengine.registry import MODELS, init_default_scope
    from mmpretrain.structures import DataSample

    init_default_scope("mmpretrain")
    backbone = dict(type="ReBNNResNet", base_channels=8, conv_cfg=dict(type="ReBNNConv2d", input_norm=True))
    head = dict(type="LinearClsHead", num_classes=3, in_channels=64)
    model = dict(type="ImageClassifier", backbone=backbone, neck=dict(type="GlobalAveragePooling"), head=head)
    return MODELS.build(model), dict(
        inputs=torch.randn(4, 3, 64, 64), data_samples=[DataSample().set_gt_label(i % 3) for i in range(4)]
    )


def detector():
    pytest.importorskip("mmdet")
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    narrow = {"model.backbone.base_channels": 8, "model.neck.in_channels": [8, 16, 32, 64]}
    sample = DetDataSample(metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0)))
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([1]))
    pictures = [torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8) for _ in range(2)]
    model = build_model(read_config(CONFIGS / "faster_rcnn_rebnn_r18_bccd.py", narrow))
    return model, dict(inputs=pictures, data_samples=[sample, sample])


def bert():
    pytest.importorskip("transformers")
    from rebnn_mm.integrations.bert import BertClassifier, token_noise

    sizes = dict(vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48)
    model = BertClassifier("rte", sizes, dict(type="ReBNNLinear", input_norm=True), "1-1")
    labels = dict(index=[0, 1, 2], labels=torch.tensor([0, 1, 1]))
    return model, (token_noise(dict(bert=sizes), (9, 4, 6)), labels)


@pytest.mark.parametrize("kind", [classifier, detector, bert])
def test_all_kinds_of_model_have_their_norms_estimated(kind):
    torch.manual_seed(0)
    model, batch = kind()
    model.train()
    norms = norms_in_training(model)
    estimate(model, [batch])  # the first forward of a training writes alpha
    for norm in norms:
        norm.running_var.fill_(1e3)
    weights = copy.deepcopy([parameter.detach() for parameter in model.parameters()])
    assert estimate(model, [batch] * 2) == len(norms) >= 12
    assert all((norm.running_var < 900).all() for norm in norms)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_mmpretrains_hook_agrees_where_there_is_no_norm_in_front_of_a_sign():
    pytest.importorskip("mmpretrain.models")
    from mmpretrain.engine.hooks.precise_bn_hook import update_bn_stats

    model, batch = classifier()
    for module in model.modules():
        if isinstance(module, ReBNNConv2d):
            module.input_norm = None
    model.train()
    other = copy.deepcopy(model)

    class Loader(list):
        batch_size = 4

    estimate(model, [batch] * 2)
    update_bn_stats(other, Loader([dict(inputs=batch["inputs"])] * 2), 8, logger="silent")
    ours, theirs = statistics(model), statistics(other)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
