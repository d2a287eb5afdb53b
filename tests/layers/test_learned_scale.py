"""alpha follows the weight until it is trained, set or loaded, whatever is copied, saved or averaged in between."""

import copy
import io
import pickle

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModule, ExponentialMovingAverage, StochasticWeightAverage
from mmengine.registry import MODELS
from mmengine.runner import Runner, load_checkpoint
from mmengine.runner import load_state_dict as mmengine_load_state_dict
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from rebnn_mm.deploy import Check, export_model
from rebnn_mm.functional import scale_init
from rebnn_mm.layers import binary_layers

KINDS = ("ReBNNConv2d", "ReBNNLinear", "ReCUConv2d", "ReCULinear")


def make(kind="ReBNNConv2d", **options):
    return MODELS.get(kind)(*((4, 4, 3) if kind.endswith("Conv2d") else (4, 4)), **options)


def input_of(layer):
    return torch.randn(2, 4, 8, 8) if isinstance(layer, nn.Conv2d) else torch.randn(8, 4)


def initialised(kind="ReBNNConv2d"):
    """A layer whose framework initialised the weight after the constructor."""
    layer = make(kind)
    nn.init.normal_(layer.weight, std=0.5)
    return layer


def mean_abs(layer):
    return scale_init(layer.weight.detach()).flatten()


def tensors_of(layer):
    return *layer.parameters(), *layer.buffers()


def train(layer, steps=3):
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        layer(input_of(layer)).square().mean().backward()
        optimizer.step()
    return layer


def through_pickle(layer):
    return pickle.loads(pickle.dumps(layer))


def through_file(layer, **options):
    buffer = io.BytesIO()
    torch.save(layer, buffer, **options)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)


def through_old_file(layer):
    return through_file(layer, _use_new_zipfile_serialization=False)


def through_state_dict(layer):
    twin = make(type(layer).__name__)
    twin.load_state_dict(layer.state_dict())
    return twin


def through_meta(layer):
    twin = copy.deepcopy(layer).to("meta").to_empty(device="cpu")
    twin.load_state_dict(layer.state_dict())
    return twin


COPIES = (copy.deepcopy, copy.copy, through_pickle, through_file, through_old_file, through_state_dict, through_meta)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [True, False])
def test_training_starts_at_the_initialised_weight(kind, mode):
    layer = initialised(kind).train(mode)
    layer(input_of(layer))
    assert torch.equal(layer.alpha.detach(), mean_abs(layer))
    trained = train(layer).alpha.detach().clone()
    nn.init.normal_(layer.weight)  # from the first forward on alpha is a parameter of its own
    layer(input_of(layer))
    assert torch.equal(layer.alpha.detach(), trained)


@pytest.mark.parametrize("kind", KINDS)
def test_initialisers_of_all_parameters_with_several_axes_leave_it_alone(kind):
    model = nn.Sequential(make(kind))
    for parameter in model.parameters():  # as mmdet's DETR, Mask2Former and Sparse R-CNN do
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    model(input_of(model[0]))
    assert torch.equal(model[0].alpha.detach(), mean_abs(model[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_from_before_it_was_a_vector_loads(kind):
    layer = make(kind)
    state = {name: value.clone() for name, value in train(layer).state_dict().items()}
    old = state | dict(alpha=state["alpha"].view_as(layer.scale()))
    for load in (lambda new: new.load_state_dict(old), lambda new: mmengine_load_state_dict(new, old, strict=True)):
        new = make(kind)
        load(new)
        assert torch.equal(new.alpha, layer.alpha) and torch.equal(new.scale(), layer.scale())
    assert old["alpha"].dim() == layer.weight.dim()  # the caller's dict is left alone


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_uses_it_and_writes_nothing(kind):
    layer = initialised(kind).eval()
    before = {name: value.clone() for name, value in layer.state_dict(keep_vars=True).items()}
    x = input_of(layer)
    with torch.no_grad():
        y = layer(x)
    assert torch.equal(layer.scale().flatten(), mean_abs(layer))
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict(keep_vars=True).items())
    layer.train()
    assert torch.equal(layer(x), y)


def test_mmengine_initialisers_reach_it():
    class Net(BaseModule):
        def __init__(self):
            super().__init__(dict(type="Kaiming", layer="Conv2d"))
            self.body = nn.Sequential(make(bias=False))  # mmengine calls no init_weights below a Sequential

    net = Net()
    net.init_weights()
    net.eval()
    assert torch.equal(net.body[0].scale().flatten(), mean_abs(net.body[0]))
    assert torch.equal(net.state_dict()["body.0.alpha"], mean_abs(net.body[0]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("duplicate", [lambda layer: layer, *COPIES])
def test_an_alpha_set_by_hand_stays(kind, duplicate):
    layer = initialised(kind)
    layer.alpha.data.fill_(7.0)
    layer = duplicate(layer)
    assert (layer.state_dict()["alpha"] == 7).all()
    layer(input_of(layer))
    assert (layer.alpha == 7).all() and (layer.eval().scale() == 7).all()


@pytest.mark.parametrize("kind", KINDS)
def test_saving_before_the_first_forward_changes_nothing(kind):
    layer = initialised(kind)
    before = layer.alpha.detach().clone()
    saved = layer.state_dict()
    assert torch.equal(layer.alpha.detach(), before)
    assert torch.equal(saved["alpha"], mean_abs(layer))
    other = make(kind)
    other.load_state_dict(saved)
    x = input_of(layer)
    assert torch.equal(layer(x), other(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copy_agrees_and_may_be_initialised_anew(kind, duplicate):
    layer = initialised(kind)
    twin = duplicate(layer)
    x = input_of(layer)
    with torch.no_grad():
        assert torch.equal(layer.eval()(x), twin.eval()(x))
    if duplicate in (through_state_dict, through_meta):
        return  # loaded: alpha is what the file says
    nn.init.normal_(twin.weight, std=3.0)
    twin.train()(x)
    assert torch.equal(twin.alpha.detach(), mean_abs(twin))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("duplicate", COPIES)
def test_a_copy_of_a_trained_layer_keeps_alpha(kind, duplicate):
    layer = train(initialised(kind))
    twin = duplicate(layer)
    assert torch.equal(twin.alpha, layer.alpha) and not torch.equal(layer.alpha, mean_abs(layer))
    twin(input_of(twin))
    assert torch.equal(twin.alpha, layer.alpha) and torch.equal(twin.state_dict()["alpha"], layer.alpha)


def torch_ema(layer, **options):
    return AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.5), **options)


class StateDictEMA:
    """The average that timm and others keep: over the tensors of ``state_dict()``, from a copy on."""

    def __init__(self, layer):
        self.module = copy.deepcopy(layer)

    def update_parameters(self, layer):
        for average, value in zip(self.module.state_dict().values(), layer.state_dict().values(), strict=True):
            average.copy_(average * 0.5 + value * 0.5)


def halves(start, a, b, c):
    return ((a + b) / 2 + c) / 2


# how it is made, and what it is of alpha's start and its three values
AVERAGES = {
    "torch SWA": (AveragedModel, lambda start, *values: sum(values) / 3),
    "torch EMA": (torch_ema, halves),
    "torch EMA with buffers": (lambda layer: torch_ema(layer, use_buffers=True), halves),
    "mmengine EMA": (lambda layer: ExponentialMovingAverage(layer, momentum=0.5), halves),
    "mmengine EMA with buffers": (lambda layer: ExponentialMovingAverage(layer, 0.5, update_buffers=True), halves),
    "mmengine SWA": (StochasticWeightAverage, lambda start, *values: sum(values) / 3),
    "state dict": (StateDictEMA, lambda start, a, b, c: halves(start, (start + a) / 2, b, c)),
}


@pytest.mark.parametrize(("average", "expect"), AVERAGES.values(), ids=AVERAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_average_begun_before_the_first_forward_is_the_average(kind, average, expect):
    layer = initialised(kind)
    start = mean_abs(layer)
    averaged = average(layer)
    values = []
    for _ in range(3):
        values.append(train(layer, 1).alpha.detach().clone())
        averaged.update_parameters(layer)
    expected = expect(start, *values)
    copied = averaged.module
    for _ in range(2):  # saving twice is saving once
        torch.testing.assert_close(copied.state_dict()["alpha"], expected)
    with torch.no_grad():
        copied.eval()(input_of(layer))
        torch.testing.assert_close(copied.scale().flatten(), expected)
    assert not torch.allclose(expected, mean_abs(copied), rtol=1e-4)


def test_a_frozen_alpha_is_not_moved_by_averaged_weights():
    layer = make()
    layer.alpha.requires_grad_(False)
    averaged = AveragedModel(layer)
    for _ in range(3):
        optimizer = torch.optim.SGD([layer.weight], lr=0.1)
        layer(input_of(layer)).square().mean().backward()
        optimizer.step()
        averaged.update_parameters(layer)
    assert torch.equal(averaged.module.eval().scale().flatten(), layer.alpha)


@pytest.mark.parametrize("kind", KINDS)
def test_processes_of_different_seeds_begin_with_one_alpha(kind):
    first, other = initialised(kind), initialised(kind)
    with torch.no_grad():  # what DistributedDataParallel does
        for ours, theirs in zip(tensors_of(first), tensors_of(other), strict=True):
            theirs.copy_(ours)
    for layer in (first, other):
        layer(input_of(layer))
    torch.testing.assert_close(first.alpha.data, mean_abs(first))
    torch.testing.assert_close(other.alpha.data, mean_abs(first))


@pytest.mark.parametrize("kind", KINDS)
def test_moving_and_casting_keep_what_alpha_is(kind):
    layer = make(kind).half().float()  # rounded, so no longer equal to what the constructor computed
    nn.init.normal_(layer.weight)
    assert torch.equal(layer.eval().scale().flatten(), mean_abs(layer))
    layer.alpha.data.fill_(7.0)
    assert (layer.half().float().scale() == 7).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_made_on_the_meta_device(kind):
    with torch.device("meta"):
        layer = make(kind)
    empty = copy.deepcopy(layer).to_empty(device="cpu")
    for module in empty.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert torch.equal(empty.alpha.detach(), mean_abs(empty))
    assert not hasattr(empty, "gamma") or (empty.gamma == 0).all()
    filled = copy.deepcopy(layer).to_empty(device="cpu")
    for parameter in filled.parameters():
        parameter.data.fill_(7.0)
    assert (filled.eval().scale() == 7).all()
    plain = nn.Conv2d(4, 4, 3) if kind.endswith("Conv2d") else nn.Linear(4, 4)
    assigned = copy.deepcopy(layer)
    assigned.load_state_dict(plain.state_dict(), assign=True)
    assert torch.equal(assigned.alpha.detach(), mean_abs(assigned))
    assert all(tensor.device.type == "cpu" for tensor in (*tensors_of(assigned), *assigned.state_dict().values()))
    assigned(input_of(assigned))


def test_a_load_hook_may_rename_the_weight():
    plain, layer = nn.Conv2d(4, 4, 3), train(make())
    layer.gamma.fill_(0.5)

    def rename(module, state_dict, prefix, *_):
        state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}kernel")

    layer.register_load_state_dict_pre_hook(rename)
    layer.load_state_dict({"kernel": plain.weight.detach(), "bias": plain.bias.detach()})
    assert torch.equal(layer.alpha.detach(), scale_init(plain.weight.detach()).flatten()) and (layer.gamma == 0).all()


@pytest.mark.parametrize("load", [nn.Module.load_state_dict, mmengine_load_state_dict])
@pytest.mark.parametrize("strict", [True, False])
def test_a_real_valued_checkpoint_is_left_as_it_is(load, strict):
    plain, model = nn.Sequential(nn.Conv2d(4, 4, 3)), nn.Sequential(train(make()))
    state = plain.state_dict()
    load(model, state, strict=strict)
    assert set(state) == {"0.weight", "0.bias"}
    assert torch.equal(model[0].alpha.detach(), scale_init(plain[0].weight.detach()).flatten())


def test_a_checkpoint_without_this_layer_changes_nothing():
    layer = initialised()
    layer.load_state_dict({}, strict=False)
    nn.init.normal_(layer.weight)
    assert torch.equal(layer.eval().scale().flatten(), mean_abs(layer))


def run(work_dir, ema, epochs=2, resume=False):
    from binary_toy import Toy

    torch.manual_seed(0)
    runner = Runner(
        Toy(),
        str(work_dir),
        train_dataloader=DataLoader(list(torch.randn(8, 3, 6, 6)), 2, collate_fn=lambda b: dict(x=torch.stack(b))),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.5)),
        custom_hooks=[dict(type="EMAHook", **ema)],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)),
        resume=resume,
        experiment_name=f"{work_dir.name}_{epochs}",
        randomness=dict(seed=0),
        log_level="ERROR",
    )
    nn.init.normal_(runner.model.conv.weight, std=0.5)  # as init_weights does, after the constructor
    runner.train()
    return runner


def alphas(state):
    return {name: value for name, value in state.items() if name.endswith("alpha")}


@pytest.mark.parametrize(
    "ema",
    [
        dict(ema_type="ExponentialMovingAverage", momentum=0.5),
        dict(ema_type="ExponentialMovingAverage", momentum=0.5, update_buffers=True),
        dict(ema_type="StochasticWeightAverage"),
        dict(ema_type="ExponentialMovingAverage", momentum=0.5, begin_epoch=2),
    ],
    ids=["EMA", "EMA with buffers", "SWA", "EMA from the second epoch on"],
)
def test_a_run_with_averages_is_saved_resumed_tested_and_exported(tmp_path, ema):
    runner = run(tmp_path / "once", ema, epochs=3)
    hook = next(hook for hook in runner.hooks if isinstance(hook, EMAHook))
    average = hook.ema_model.module
    saved = torch.load(tmp_path / "once/epoch_3.pth", weights_only=False)
    assert alphas(saved["state_dict"])  # mmengine puts the average where models are loaded from
    for name, alpha in alphas(saved["state_dict"]).items():
        layer = average.get_submodule(name.rpartition(".")[0])
        assert torch.equal(alpha, layer._parameters["alpha"]) and torch.equal(layer.eval().scale().flatten(), alpha)
        assert not torch.allclose(alpha, mean_abs(layer), rtol=1e-4)
        assert torch.equal(saved["ema_state_dict"][f"module.{name}"], runner.model.get_parameter(name))

    run(tmp_path / "twice", ema, epochs=2)
    again = run(tmp_path / "twice", ema, epochs=3, resume=True)
    resumed = torch.load(tmp_path / "twice/epoch_3.pth", weights_only=False)
    assert again.iter == runner.iter
    for name, value in saved["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][name], value, msg=name)

    from binary_toy import Toy

    tested = Toy().eval()
    load_checkpoint(tested, str(tmp_path / "once/epoch_3.pth"))
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        assert torch.equal(tested(x)["loss"], average.eval()(x)["loss"])
    for name, layer in binary_layers(tested).items():
        assert torch.equal(layer.scale().flatten(), saved["state_dict"][f"{name}.alpha"])
    export_model(tested.conv, tmp_path / "conv.rebnn", check=Check([x]))
