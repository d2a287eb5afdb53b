"""A plain torch loop with a Balance beside mmengine's runner with the hook."""

import io
import subprocess
import sys

import pytest
import torch
from binary_toy import Toy
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from rebnn_mm import functional as F
from rebnn_mm.balance import Balance, balanced_layers
from rebnn_mm.hooks import BalanceHook
from rebnn_mm.layers import ReActConv2d, ReBNNConv2d, ReBNNLinear

UPDATES = 10
OPTIONS = [
    dict(),
    dict(magnitude="gradient", flip_weighted=False),
    dict(flip_interval=3, gamma_max=0.05),
    dict(begin=2, ramp=4),
    dict(begin=0.2, ramp=0.4),
    dict(gamma=0.5, begin=0.3),
]


def images():
    torch.manual_seed(1)
    return list(torch.randn(UPDATES, 2, 3, 6, 6))


def toy():
    torch.manual_seed(0)
    return Toy()


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=0.05)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def plain(model, optimizer, batches, balance=None):
    """Every layer's weight, alpha and gamma after each update."""
    seen = []
    for batch in batches:
        optimizer.zero_grad()
        model(batch)["loss"].backward()
        optimizer.step()
        seen.append(state(model))
    return seen


def with_runner(model, tmp_path, **options):
    class Record(Hook):
        seen = []

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            self.seen.append(state(runner.model))

    Record.seen = []
    Runner(
        model,
        str(tmp_path),
        train_dataloader=DataLoader(images(), batch_size=1, collate_fn=lambda batch: dict(x=batch[0])),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="Adam", lr=0.05)),
        custom_hooks=[BalanceHook(**options), Record()],
        experiment_name=f"plain{id(model)}",
        log_level="ERROR",
    ).train()
    return Record.seen


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_plain_loop_gives_what_the_runner_gives(tmp_path, options):
    expected = with_runner(toy(), tmp_path, **options)
    model = toy()
    optimizer = adam(model)
    Balance(optimizer, model, total_updates=UPDATES, **options)
    seen = plain(model, optimizer, images())
    assert_same(seen, expected)
    assert seen[-1]["conv.gamma"].any()


@pytest.mark.parametrize("model_first", [True, False])
@pytest.mark.parametrize("options", [*OPTIONS, dict(gamma=0.5, flip_interval=3, ramp=8)])
def test_resuming_is_bit_for_bit(options, model_first):
    model = toy()
    optimizer = adam(model)
    balance = Balance(optimizer, model, total_updates=UPDATES, **options)
    plain(model, optimizer, images()[:4])
    saved = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict(), balance.state_dict()), saved)
    expected = plain(model, optimizer, images()[4:])

    saved.seek(0)
    of_model, of_optimizer, of_balance = torch.load(saved, weights_only=True)
    model = Toy()
    if model_first:
        model.load_state_dict(of_model)
    optimizer = adam(model)
    again = Balance(optimizer, model, total_updates=UPDATES, **options)
    again.load_state_dict(of_balance)
    if not model_first:
        model.load_state_dict(of_model)
    optimizer.load_state_dict(of_optimizer)
    assert again.updates == 4
    assert_same(plain(model, optimizer, images()[4:]), expected)
    assert again.flip_share() == balance.flip_share() and again.updates == UPDATES


def test_what_it_tells_of_the_run():
    model = toy()
    optimizer = adam(model)
    balance = Balance(optimizer, model)
    assert balance.flip_share() == 0 and not balance.gamma().any() and not balance.has_set_in()
    before = [layer.weight.detach().clone() for layer in balance.layers.values()]
    plain(model, optimizer, images()[:1])
    after = [layer.weight for layer in balance.layers.values()]
    flips = sum(((a >= 0) != (b >= 0)).sum().item() for a, b in zip(before, after, strict=True))
    assert balance.flip_share() == flips / (model.conv.weight.numel() + model.head.weight.numel())
    assert list(balance.layers) == ["conv", "head"] and balance.gamma().shape == (6,) and balance.has_set_in()


def test_detached_it_does_nothing_more():
    model, plain_model = toy(), toy()
    optimizer = adam(model)
    Balance(optimizer, model, gamma=0.5).detach()
    seen = plain(model, optimizer, images())
    expected = plain(plain_model, adam(plain_model), images())
    assert all(torch.equal(a["conv.weight"], b["conv.weight"]) for a, b in zip(seen, expected, strict=True))


def test_layers_by_name_in_a_list_and_of_a_model():
    model = toy()
    assert list(balanced_layers(model)) == list(balanced_layers(dict(model.named_modules()))) == ["conv", "head"]
    assert list(balanced_layers([model.head, nn.Linear(1, 1), model.conv])) == ["0", "2"]
    mixed = nn.Sequential(ReActConv2d(3, 3, 1), nn.BatchNorm2d(3), ReBNNConv2d(3, 3, 1), ReBNNLinear(3, 3))
    mixed[3].weight.requires_grad_(False)
    assert list(balanced_layers(mixed)) == ["2"]


def test_layers_with_one_weight_have_the_same_magnitude():
    """Of the task's gradient alone, whichever layer comes first."""
    torch.manual_seed(0)
    model = nn.Sequential(ReBNNLinear(8, 8), ReBNNLinear(8, 8))
    model[1].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Balance(optimizer, model, magnitude="gradient", flip_weighted=False, begin=0)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().sum().backward()
        alphas = [layer.alpha.detach().clone() for layer in model]
        largest = [F.gradient_magnitude(model[0].weight, model[0].weight.grad, alpha.view(-1, 1)) for alpha in alphas]
        optimizer.step()
        for layer, magnitude in zip(model, largest, strict=True):
            torch.testing.assert_close(layer.gamma, magnitude.view_as(layer.gamma))


def test_two_optimizers_have_a_balance_each():
    model = toy()
    first, second = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (model.conv, model.head))
    balances = Balance(first, model, gamma=0.25), Balance(second, model, gamma=0.5)
    assert [list(balance.layers) for balance in balances] == [["conv"], ["head"]]
    assert (model.conv.gamma == 0.25).all() and (model.head.gamma == 0.5).all()
    plain(model, first, images()[:3])
    assert [balance.updates for balance in balances] == [3, 0]


def test_a_second_balance_takes_over():
    """As where a notebook's cell is run again: the gradient is added once."""
    model, other = toy(), toy()
    optimizer, single = adam(model), adam(other)
    first = Balance(optimizer, model, gamma=0.5)
    with pytest.warns(UserWarning, match="takes over 2 layers from an earlier Balance"):
        Balance(optimizer, model, gamma=0.5)
    Balance(single, other, gamma=0.5)
    assert not first.layers
    assert_same(plain(model, optimizer, images()), plain(other, single, images()))


def test_a_scaler_s_skipped_step_does_not_count():
    model = toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    balance = Balance(optimizer, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor in (1.0, float("inf")):
        optimizer.zero_grad()
        scaler.scale(model(images()[0])["loss"] * factor).backward()
        scaler.step(optimizer)
        scaler.update()
    assert balance.updates == 1


def test_gradients_that_come_within_the_step_are_refused():
    model = toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Balance(optimizer, model)
    for call in (lambda f: optimizer.step(f), lambda f: optimizer.step(closure=f)):
        with pytest.raises(ValueError, match=r"SGD.step\(closure\) computes gradients inside.*without a closure"):
            call(lambda: 0.0)
    fused = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    Balance(fused, model)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(model(images()[0])["loss"]).backward()
    with pytest.raises(ValueError, match=r"Adam\(fused=True\) unscales.*set fused=False"):
        scaler.step(fused)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(magnitude="max"), ValueError, "magnitude='max' is not one of"),
        (dict(gamma="much"), ValueError, "gamma='much' must be a finite number"),
        (dict(gamma=True), ValueError, "gamma=True must be a finite number"),
        (dict(begin=0.2), ValueError, "shares of the training; say how long it is with total_updates="),
        (dict(ramp=0.2), ValueError, "shares of the training"),
        (dict(total_updates=0), ValueError, "total_updates=0 must be a whole number"),
        (dict(total_updates=2.5), ValueError, "total_updates=2.5 must be a whole number"),
        (dict(begin=8, total_updates=8), ValueError, "begin=8 updates, but the training ends after 8 updates: gamma"),
        (dict(momentum=0.9), TypeError, "momentum"),
        (dict(optimizer="adam"), TypeError, "optimizer is a str, not a torch.optim.Optimizer"),
        (dict(layers=3), TypeError, "layers is a int; give a model"),
        (dict(layers=["conv"]), TypeError, "layers holds '0', a str, which is no module"),
        (dict(layers=nn.Conv2d(1, 1, 1)), ValueError, "no trainable ReBNN layer.*Make the model 1-bit first"),
        (dict(layers=[]), ValueError, "no trainable ReBNN layer"),
        (dict(layers=ReBNNConv2d(1, 1, 1)), ValueError, "updates none of the 1 ReBNN layers' weights; make the"),
    ],
)
def test_bad_input(arguments, error, message):
    model = toy()
    with pytest.raises(error, match=message):
        Balance(**dict(dict(optimizer=adam(model), layers=model), **arguments))


def test_a_ramp_beyond_the_end_is_said():
    model = toy()
    with pytest.warns(UserWarning, match="Balance: begin=4, ramp=8 reach behind.* after 8 updates: gamma rises to 50%"):
        Balance(adam(model), model, begin=4, ramp=8, total_updates=8)


def test_a_state_of_something_else_is_refused():
    model = toy()
    balance = Balance(adam(model), model)
    with pytest.raises(ValueError, match="no state of a Balance"):
        balance.load_state_dict(model.state_dict())
    good = balance.state_dict()
    with pytest.raises(ValueError, match="of other layers than these: head"):
        balance.load_state_dict(dict(good, gamma={"conv": good["gamma"]["conv"]}))
    with pytest.raises(ValueError, match="state of 'conv' has 2 channels, the layer 4"):
        balance.load_state_dict(dict(good, gamma=dict(good["gamma"], conv=torch.zeros(2))))
    balance.load_state_dict(good)


def test_layers_that_are_not_ours(tmp_path):
    """It is the three tensors that make a layer one to balance."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3))
            self.alpha = nn.Parameter(torch.ones(4, 1))
            self.register_buffer("gamma", torch.zeros(4, 1))

    layer = Own()
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    Balance(optimizer, layer, gamma=0.5)
    before = layer.weight.detach().clone()
    layer.weight.sum().backward()
    optimizer.step()
    grad = 1 + F.reconstruction_grad(before, torch.ones(4, 1), torch.full((4, 1), 0.5))[0]
    torch.testing.assert_close(layer.weight.detach(), before - grad)


@pytest.mark.slow
def test_it_needs_torch_alone():
    code = """
import sys, importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "mmengine" else find(name, package)
import rebnn_mm.balance
assert "mmengine" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
