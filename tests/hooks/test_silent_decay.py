import pytest
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper

from rebnn_mm.hooks import SilentDecayHook
from rebnn_mm.layers import ReActConv2d, ReBNNConv2d

WEIGHTS = [0.5, -3.0, 0.02, 4.0]  # the second and the fourth are beyond 1: the task gives them no gradient


class Toy(BaseModel):
    def __init__(self, conv=ReActConv2d):
        super().__init__()
        self.conv = conv(1, 4, 1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor(WEIGHTS).view(4, 1, 1, 1))

    def forward(self, x, mode="loss"):
        return dict(loss=self.conv(torch.stack(x)[:, :1, None, None] + 0.1).sum())


def train(make_runner, hooks, epochs=1, conv=ReActConv2d, **optimizer):
    model = Toy(conv)
    runner = make_runner(model=model, hooks=hooks, epochs=epochs)
    runner.optim_wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), **dict(lr=0.01) | optimizer))
    runner.train()
    return model.conv.weight.detach().flatten()


def test_only_silent_weights_decay(make_runner):
    free = train(make_runner, [], lr=0.03)
    held = train(make_runner, [SilentDecayHook(decay=0.1)], lr=0.03)
    assert free[1] == -3 and free[3] == 4
    steps = 4  # batches of 2 from eight vectors
    torch.testing.assert_close(held[[1, 3]], torch.tensor([-3.0, 4.0]) * (1 - 0.03 * 0.1) ** steps)
    # the third weight's sign flips in the first update, and it decays no longer; the first weight is silent throughout
    assert free[2] < 0 and held[2] < 0 and held[0] < free[0]
    assert abs(held[2] - free[2]) < 1e-4 < free[0] - held[0]


def test_a_weight_is_silent_again_after_the_papers_2302_updates(make_runner):
    hook = SilentDecayHook()
    train(make_runner, [hook])
    (rate,) = hook._rates.values()
    rate.rate.zero_()
    rate.signs = ~rate.signs
    rate.count()
    updates = 0
    while (rate.rate >= hook.threshold).any():
        rate.count()
        updates += 1
    assert updates == 2302


def test_gamma_is_taken_from_the_task_alone(make_runner):
    """The decay comes behind BalanceHook, wherever it stands in the config."""
    balance = dict(type="BalanceHook", magnitude="gradient", flip_weighted=False)
    gammas = []
    for hooks in ([balance], [SilentDecayHook(decay=100.0), balance]):
        model = Toy(ReBNNConv2d)
        runner = make_runner(model=model, hooks=hooks)
        runner.optim_wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.0))
        runner.train()
        gammas.append(model.conv.gamma.clone())
    assert gammas[0].max() > 0
    torch.testing.assert_close(gammas[0], gammas[1], rtol=0, atol=0)


def test_it_leaves_the_optimizer_after_the_training(make_runner):
    model = Toy()
    runner = make_runner(model=model, hooks=[SilentDecayHook(decay=1.0)])
    runner.train()
    optimizer, before = runner.optim_wrapper.optimizer, model.conv.weight.detach().clone()
    model.conv.weight.grad = torch.zeros_like(before)
    optimizer.param_groups[0]["momentum"] = 0
    optimizer.step()
    assert torch.equal(model.conv.weight, before)


@pytest.mark.parametrize("name", ["decay", "momentum", "threshold"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), True, "1"])
def test_refused_options(name, value):
    with pytest.raises(ValueError, match=f"{name}=.* must be a .*number"):
        SilentDecayHook(**{name: value})


@pytest.mark.parametrize("name", ["momentum", "threshold"])
def test_shares_are_below_1(name):
    with pytest.raises(ValueError, match=f"{name}=1 must be a finite number > 0 and < 1"):
        SilentDecayHook(**{name: 1})


def test_a_model_without_1_bit_layers_and_two_hooks(make_runner):
    model = Toy()
    model.conv.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="SilentDecayHook: the model has no 1-bit layer whose weight learns"):
        make_runner(model=model, hooks=[SilentDecayHook()]).train()
    with pytest.raises(ValueError, match="SilentDecayHook is there 2 times"):
        make_runner(model=Toy(), hooks=[SilentDecayHook(), SilentDecayHook()]).train()
