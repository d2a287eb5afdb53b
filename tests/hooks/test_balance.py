import copy

import pytest
import torch
from binary_toy import Toy
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from rebnn_mm import functional as F
from rebnn_mm.hooks import BalanceHook
from rebnn_mm.layers import ReActConv2d, ReCUConv2d, binary_layers


class Real(BaseModel):
    def __init__(self, conv=nn.Conv2d):
        super().__init__()
        self.conv = conv(3, 4, 3)

    def forward(self, x, mode="loss"):
        return dict(loss=self.conv(x).square().mean())


class Record(Hook):
    """Keep gamma, signs and weights of every iteration."""

    def __init__(self):
        self.gamma, self.weight, self.scalars = [], [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.gamma.append(runner.model.conv.gamma.flatten().clone())
        self.weight.append(runner.model.conv.weight.detach().clone())
        scalars = runner.message_hub.log_scalars
        if "train/rebnn/gamma" in scalars:
            self.scalars.append([scalars[f"train/rebnn/{k}"].current() for k in ("gamma", "flip_share")])


def train(
    tmp_path,
    hook,
    epochs=2,
    optim_wrapper=None,
    model=None,
    resume=False,
    name="toy",
    load_from=None,
    more_hooks=(),
    log_level="ERROR",
):
    torch.manual_seed(0)
    data = list(torch.randn(4, 3, 6, 6))
    record = Record()
    model = model or Toy()
    runner = Runner(
        model,
        str(tmp_path),
        train_dataloader=DataLoader(data, batch_size=1, collate_fn=lambda b: dict(x=torch.stack(b))),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=optim_wrapper or dict(optimizer=dict(type="Adam", lr=0.05)),
        custom_hooks=[hook, *more_hooks, record],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1)),
        experiment_name=f"{name}{id(record)}",
        resume=resume,
        load_from=load_from,
        randomness=dict(seed=0),
        log_level=log_level,
    )
    start = copy.deepcopy(runner.model.state_dict())
    runner.train()
    return runner, record, start


def test_gamma_is_flip_share_times_the_weight_before_the_update(tmp_path):
    runner, record, start = train(tmp_path, BalanceHook())
    before = [start["conv.weight"], *record.weight[:-1]]
    for w0, w1, gamma in zip(before, record.weight, record.gamma, strict=True):
        expected = F.flip_share(F.sign(w0), F.sign(w1)) * F.weight_magnitude(w0)
        torch.testing.assert_close(gamma, expected)
    assert max(g.max() for g in record.gamma) > 0
    layers = binary_layers(runner.model).values()
    mean_gamma = torch.cat([layer.gamma.flatten() for layer in layers]).mean()
    assert record.scalars[-1][0] == pytest.approx(mean_gamma.item())


def test_update_uses_task_plus_reconstruction_gradient(tmp_path):
    sgd = dict(optimizer=dict(type="SGD", lr=0.1))
    runner, record, start = train(tmp_path, BalanceHook(gamma=0.5), optim_wrapper=sgd, epochs=1)
    model = Toy()
    model.load_state_dict(start)
    torch.manual_seed(0)
    batches = list(torch.randn(4, 3, 6, 6))
    for x, w1 in zip(batches, record.weight, strict=True):
        loss = model(x[None])["loss"]
        for layer in binary_layers(model).values():
            loss = loss + F.reconstruction_loss(layer.weight, layer._scale(), torch.full_like(layer.gamma, 0.5))
        grads = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), grads, strict=True):
                p -= 0.1 * g
        torch.testing.assert_close(model.conv.weight.detach(), w1)


def test_paper_rule_reads_the_task_gradient(tmp_path):
    seen = []

    class Spy(Hook):
        priority = "HIGH"  # before BalanceHook attaches

        def before_train(self, runner):
            runner.optim_wrapper.optimizer.register_step_pre_hook(lambda *_: self.look(runner.model.conv))

        def look(self, layer):
            seen.append(F.gradient_magnitude(layer.weight.detach(), layer.weight.grad.clone(), layer.alpha.detach()))

    hook = BalanceHook(magnitude="gradient", flip_weighted=False)
    _, record, _ = train(tmp_path, hook, more_hooks=[Spy()])
    torch.testing.assert_close(record.gamma, seen)


def test_accumulation_and_clipping(tmp_path):
    wrapper = dict(optimizer=dict(type="Adam", lr=0.05), accumulative_counts=2, clip_grad=dict(max_norm=1.0))
    _, record, start = train(tmp_path, BalanceHook(), optim_wrapper=wrapper)
    assert torch.equal(record.weight[0], start["conv.weight"])
    assert torch.equal(record.gamma[2], record.gamma[1])
    torch.testing.assert_close(
        record.gamma[1],
        F.flip_share(F.sign(record.weight[0]), F.sign(record.weight[1])) * F.weight_magnitude(record.weight[0]),
    )


@pytest.mark.parametrize(
    "options",
    [dict(), dict(magnitude="gradient"), dict(flip_interval=3), dict(begin=6, ramp=6)],
)
def test_resume_is_bit_for_bit(tmp_path, options):
    whole, record, _ = train(tmp_path / "whole", BalanceHook(**options), epochs=4)
    train(tmp_path / "halves", BalanceHook(**options), epochs=2)
    halves, resumed, _ = train(tmp_path / "halves", BalanceHook(**options), epochs=4, resume=True)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, halves.model.state_dict()[key]), key
    assert resumed.scalars == record.scalars[-len(resumed.scalars) :]


def test_what_a_checkpoint_holds(tmp_path):
    """Checkpoints of earlier versions resume, and theirs are these keys."""
    train(tmp_path, BalanceHook(flip_interval=3), epochs=2)
    saved = torch.load(tmp_path / "epoch_2.pth", weights_only=False)["rebnn_balance"]
    assert list(saved) == ["updates", "flip_interval", "changed", "signs"]
    assert saved["updates"] == {0: 8} and saved["flip_interval"] == 3
    assert list(saved["changed"]) == list(saved["signs"]) == ["conv", "head"]
    assert [bits.numel() for bits in saved["signs"].values()] == [14, 1]  # 108 and 8 weights


def test_resume_keeps_the_onset_as_a_share_of_the_training(tmp_path):
    whole, record, _ = train(tmp_path / "whole", BalanceHook(begin=0.4, ramp=0.3), epochs=4)
    middle = str(tmp_path / "whole" / "epoch_2.pth")
    _, resumed, _ = train(tmp_path, BalanceHook(begin=0.4, ramp=0.3), epochs=4, resume=True, load_from=middle)
    assert resumed.scalars == record.scalars[8:] and record.gamma[-1].any()


def test_flip_interval_compares_distant_snapshots(tmp_path):
    _, record, start = train(tmp_path, BalanceHook(flip_interval=4))
    expected = F.flip_share(F.sign(start["conv.weight"]), F.sign(record.weight[3]))
    torch.testing.assert_close(record.gamma[3], expected * F.weight_magnitude(record.weight[2]))
    assert not record.gamma[2].any()
    assert torch.equal(record.gamma[4], record.gamma[3])


def test_gamma_sets_in_late_and_rises_linearly(tmp_path):
    _, record, start = train(tmp_path, BalanceHook(begin=2, ramp=4))
    before = [start["conv.weight"], *record.weight[:-1]]
    for done, (w0, w1, gamma) in enumerate(zip(before, record.weight, record.gamma, strict=True), 1):
        factor = min(max(done - 2, 0) / 4, 1)
        torch.testing.assert_close(gamma, factor * F.flip_share(F.sign(w0), F.sign(w1)) * F.weight_magnitude(w0))
    assert record.gamma[-1].any()


@pytest.mark.parametrize("options", [dict(begin=0.25, ramp=0.5), dict(begin=2, ramp=4)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_share_counts_iterations_and_a_whole_number_updates(tmp_path, options, accumulate):
    wrapper = dict(optimizer=dict(type="Adam", lr=0.05), accumulative_counts=accumulate)
    _, record, _ = train(tmp_path, BalanceHook(gamma=0.5, **options), optim_wrapper=wrapper)
    done = range(1, 9)
    if isinstance(options["begin"], int):
        done = [iteration // accumulate for iteration in done]
    else:  # set at each update: two iterations apart when they accumulate
        done = [iteration // accumulate * accumulate for iteration in done]
    assert [gamma[0].item() for gamma in record.gamma] == pytest.approx([0.5 * min(max(n - 2, 0) / 4, 1) for n in done])


def test_frozen_layer_is_left_alone(tmp_path):
    model = Toy()
    model.conv.requires_grad_(False)
    runner, _, start = train(tmp_path, BalanceHook(gamma=0.5), model=model)
    assert torch.equal(runner.model.conv.weight, start["conv.weight"])
    assert not runner.model.conv.gamma.any()
    assert (runner.model.head.gamma == 0.5).all()


def test_constant_gamma_and_bounds(tmp_path):
    _, record, _ = train(tmp_path, BalanceHook(gamma_min=0.01, gamma_max=0.02))
    assert all(((g >= 0.01) & (g <= 0.02)).all() for g in record.gamma)


@pytest.mark.parametrize("conv", [nn.Conv2d, ReActConv2d, ReCUConv2d])  # the last learns a scale, too
def test_no_rebnn_layer_fails_at_once(tmp_path, conv):
    with pytest.raises(ValueError, match="no trainable ReBNN layer.*remove BalanceHook"):
        train(tmp_path, BalanceHook(), model=Real(conv))


def test_detaches_after_training(tmp_path):
    runner, _, _ = train(tmp_path, BalanceHook())
    assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks
    assert not runner.optim_wrapper.optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(magnitude="max"), "magnitude='max'"),
        (dict(flip_interval=0), "flip_interval=0"),
        (dict(gamma=-1.0), "gamma=-1.0"),
        (dict(gamma_min=2.0, gamma_max=1.0), "above"),
        (dict(gamma=1.0, gamma_max=2.0), "no bounds"),
        (dict(begin=-1), "begin=-1 must be a whole number of updates"),
        (dict(begin=1.0), r"begin=1.0 .* share of the training in \[0, 1\)"),
        (dict(begin="late"), "begin='late'"),
        (dict(ramp=float("nan")), "ramp=nan"),
        (dict(begin=100, ramp=0.5), "different units"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        BalanceHook(**options)


def test_training_that_ends_before_gamma_begins_is_refused(tmp_path):
    with pytest.raises(ValueError, match="begin=8 updates, but the training ends after 8 iterations, which"):
        train(tmp_path, BalanceHook(begin=8))


def test_several_optimizers_and_frozen_layers(tmp_path):
    class TwoOptimizers(Toy):
        def train_step(self, data, optim_wrapper):
            with optim_wrapper["conv"].optim_context(self):
                losses = self(**self.data_preprocessor(data, True))
            loss, log = self.parse_losses(losses)
            loss.backward()
            for wrapper in optim_wrapper.values():
                wrapper.step()
                wrapper.zero_grad()
            return log

    model = TwoOptimizers()
    wrappers = OptimWrapperDict(
        conv=OptimWrapper(torch.optim.Adam(model.conv.parameters(), lr=0.05)),
        head=OptimWrapper(torch.optim.SGD(model.head.parameters(), lr=0.05)),
    )
    _, record, start = train(tmp_path, BalanceHook(), model=model, optim_wrapper=wrappers)
    before = [start["conv.weight"], *record.weight[:-1]]
    for w0, w1, gamma in zip(before, record.weight, record.gamma, strict=True):
        torch.testing.assert_close(gamma, F.flip_share(F.sign(w0), F.sign(w1)) * F.weight_magnitude(w0))
    assert {"conv", "head"} == set(wrappers.keys()) and max(g.max() for g in record.gamma) > 0


class Scaled(OptimWrapper):
    """What AmpOptimWrapper does with a GradScaler, which mmengine builds on accelerators only."""

    def __init__(self, optimizer, scale):
        super().__init__(optimizer)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        self.spoil = False

    def update_params(self, loss, step_kwargs=None, zero_kwargs=None):
        self.scaler.scale(loss * (float("inf") if self.spoil else 1.0)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.zero_grad()


@pytest.mark.parametrize("magnitude", ["weight", "gradient"])
def test_grad_scaler_gives_the_update_of_plain_training(tmp_path, magnitude):
    model, scaled = Toy(), Toy()
    scaled.load_state_dict(model.state_dict())
    wrapper = Scaled(torch.optim.Adam(scaled.parameters(), lr=0.05), scale=2.0**10)
    _, plain, _ = train(tmp_path / "a", BalanceHook(magnitude=magnitude), model=model)
    _, record, _ = train(tmp_path / "b", BalanceHook(magnitude=magnitude), model=scaled, optim_wrapper=wrapper)
    torch.testing.assert_close(record.gamma, plain.gamma)  # a power of two scales without rounding
    torch.testing.assert_close(record.weight, plain.weight)


def test_update_that_the_scaler_skips_leaves_gamma_alone(tmp_path):
    model = Toy()
    wrapper = Scaled(torch.optim.Adam(model.parameters(), lr=0.05), scale=2.0**10)

    class Spoil(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            wrapper.spoil = runner.iter == 2

    record = Record()
    runner = Runner(
        model,
        str(tmp_path),
        train_dataloader=DataLoader(
            list(torch.randn(4, 3, 6, 6)), batch_size=1, collate_fn=lambda b: dict(x=torch.stack(b))
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=wrapper,
        custom_hooks=[BalanceHook(), Spoil(), record],
        experiment_name=f"skip{id(record)}",
        log_level="ERROR",
    )
    runner.train()
    assert torch.equal(record.weight[2], record.weight[1]) and torch.equal(record.gamma[2], record.gamma[1])
    assert record.gamma[1].any() and not torch.equal(record.gamma[3], record.gamma[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_under_autocast(dtype):
    torch.manual_seed(0)
    model, x = Toy(), torch.randn(2, 3, 6, 6)
    with torch.autocast("cpu", dtype=dtype):
        low = model(x)["loss"]
    low.backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(x)["loss"].backward()
    for p, grad in zip(model.parameters(), grads, strict=True):
        assert grad.dtype == torch.float32
        torch.testing.assert_close(grad, p.grad, rtol=0.05, atol=0.02)


def test_fused_optimizer_under_a_scaler_is_refused(tmp_path):
    model = Toy()
    wrapper = Scaled(torch.optim.Adam(model.parameters(), lr=0.05, fused=True), scale=2.0)
    wrapper.loss_scaler = wrapper.scaler
    with pytest.raises(ValueError, match=r"Adam\(fused=True\).*set optimizer.fused=False"):
        train(tmp_path, BalanceHook(), model=model, optim_wrapper=wrapper)


@pytest.mark.slow
def test_gamma_is_identical_on_all_ranks_and_that_of_one_process(ranks):
    (_, (alone,)), (_, (first, second)) = ranks[1], ranks[2]
    assert all(torch.equal(a, b) for a, b in zip(first[0] + first[1], second[0] + second[1], strict=True))
    assert max(gamma.max() for gamma in first[0]) > 0
    torch.testing.assert_close(first, alone, rtol=1e-4, atol=1e-6)


def logged(path):
    return "\n".join(log.read_text() for log in sorted(path.glob("*/*.log")))


@pytest.mark.parametrize("begin", [0, 6, 0.7])
def test_gamma_of_a_loaded_checkpoint_does_not_act(tmp_path, begin):
    """Training from a ReBNN checkpoint's weights is that from the same weights with gamma 0."""
    train(tmp_path / "first", BalanceHook(gamma=0.5), epochs=1)
    checkpoint = torch.load(tmp_path / "first" / "epoch_1.pth", weights_only=False)
    assert checkpoint["state_dict"]["conv.gamma"].all()
    torch.save(dict(state_dict=checkpoint["state_dict"]), tmp_path / "old.pth")
    for key in ("conv.gamma", "head.gamma"):
        checkpoint["state_dict"][key].zero_()
    torch.save(dict(state_dict=checkpoint["state_dict"]), tmp_path / "zero.pth")
    hook = dict(flip_interval=3, begin=begin)
    _, record, _ = train(tmp_path / "a", BalanceHook(**hook), load_from=str(tmp_path / "old.pth"))
    _, expected, _ = train(tmp_path / "b", BalanceHook(**hook), load_from=str(tmp_path / "zero.pth"))
    assert not record.gamma[0].any() and record.gamma[-1].any()
    for a, b in zip(record.weight + record.gamma, expected.weight + expected.gamma, strict=True):
        assert torch.equal(a, b)


def test_gamma_that_would_stay_0_is_refused_in_updates(tmp_path):
    """8 iterations, accumulated to 4 updates."""
    wrapper = dict(optimizer=dict(type="Adam", lr=0.05), accumulative_counts=2)
    for options, message in (
        (dict(begin=4), "begin=4 updates, but the training ends after 8 iterations, which are 4 updates"),
        (dict(begin=4, gamma=0.5), "begin=4 updates, but"),
        (dict(flip_interval=5), "flip_interval=5 updates, but the training ends after 8 iterations, which are 4"),
        (dict(begin=3, flip_interval=3, ramp=2), "begin=3 updates, but.*every flip_interval=3 updates"),
        (dict(begin=0.9, flip_interval=3), "begin=0.9 of the training, but"),
    ):
        with pytest.raises(ValueError, match=message):
            train(tmp_path, BalanceHook(**options), optim_wrapper=wrapper)
    for options in (dict(begin=4, gamma=0.0), dict(gamma=0.5, flip_interval=9)):
        train(tmp_path, BalanceHook(**options), optim_wrapper=wrapper)
    _, record, _ = train(tmp_path, BalanceHook(begin=3), optim_wrapper=wrapper)
    assert record.gamma[-1].any()


def test_a_ramp_beyond_the_end_is_said(tmp_path):
    train(tmp_path, BalanceHook(begin=4, ramp=8), log_level="WARNING")
    assert "begin=4, ramp=8 reach behind the training's end, after 8 updates: gamma rises to 50% of" in logged(tmp_path)


class Turns(Toy):
    """The convolution's optimizer steps in each third iteration, the head's in the others."""

    def train_step(self, data, optim_wrapper):
        loss, log = self.parse_losses(self(**data))
        loss.backward()
        self.calls = getattr(self, "calls", 0) + 1
        optim_wrapper["conv" if self.calls % 3 == 0 else "head"].step()
        optim_wrapper.zero_grad()
        return log


def in_turns(tmp_path, hook, epochs=3, **kwargs):
    torch.manual_seed(0)
    model = Turns()
    wrappers = OptimWrapperDict(
        conv=OptimWrapper(torch.optim.Adam(model.conv.parameters(), lr=0.2)),
        head=OptimWrapper(torch.optim.Adam(model.head.parameters(), lr=0.3)),
    )
    return train(tmp_path, hook, epochs, wrappers, model, **kwargs)


def test_logged_flip_share_is_that_of_all_layers(tmp_path):
    class Heads(Hook):
        weight = []

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            self.weight.append(runner.model.head.weight.detach().clone())

    Heads.weight = []
    _, record, start = in_turns(tmp_path, BalanceHook(), more_hooks=[Heads()])
    conv = [start["conv.weight"], *record.weight]
    head = [start["head.weight"], *Heads.weight]
    total = conv[0].numel() + head[0].numel()
    flips, seen = dict(conv=0, head=0), []
    for i, (_, share) in enumerate(record.scalars):
        name, course = ("conv", conv) if i % 3 == 2 else ("head", head)
        flips[name] = ((course[i] >= 0) != (course[i + 1] >= 0)).sum().item()
        assert share == pytest.approx(sum(flips.values()) / total)
        seen.append(all(flips.values()))
    assert any(seen)


def test_resume_with_several_optimizers_is_bit_for_bit(tmp_path):
    whole, record, _ = in_turns(tmp_path / "whole", BalanceHook(flip_interval=2), epochs=6)
    in_turns(tmp_path / "halves", BalanceHook(flip_interval=2), epochs=3)
    halves, resumed, _ = in_turns(tmp_path / "halves", BalanceHook(flip_interval=2), epochs=6, resume=True)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, halves.model.state_dict()[key]), key
    assert resumed.scalars == record.scalars[-len(resumed.scalars) :]


def test_an_optimizer_that_hardly_steps_is_named_at_the_end(tmp_path):
    in_turns(tmp_path, BalanceHook(flip_interval=6), log_level="WARNING")  # of 12 iterations: 4 and 8 updates
    assert "gamma stayed 0 for the layers of 1 of 2 optimizers, which made 4 updates" in logged(tmp_path)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_layer_frozen_midway_does_not_move(tmp_path, set_to_none):
    class Freeze(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 3:
                runner.model.conv.requires_grad_(False)

    class Wrapper(OptimWrapper):
        def zero_grad(self, **kwargs):
            self.optimizer.zero_grad(set_to_none=set_to_none)

    model = Toy()
    wrapper = Wrapper(torch.optim.SGD(model.parameters(), lr=0.5))
    _, record, _ = train(tmp_path, BalanceHook(gamma_min=0.1), 2, wrapper, model, more_hooks=[Freeze()])
    assert all(torch.equal(record.weight[2], weight) for weight in record.weight[3:])
    assert not torch.equal(record.weight[1], record.weight[2])


@pytest.mark.parametrize("magnitude", ["weight", "gradient"])
def test_a_layer_that_is_used_now_and_then_counts_flips_until_its_next_gradient(tmp_path, magnitude):
    class Sparse(Toy):
        calls = 0

        def forward(self, x, mode="loss"):
            self.calls += 1
            losses = super().forward(x, mode)
            if self.calls % 2 == 0:  # in the interval's end, every second update, the convolution is not used
                losses = dict(loss=self.head(x.mean((2, 3)).new_ones(1, 4)).square().mean())
            return losses

    hook = BalanceHook(magnitude=magnitude, flip_interval=3)
    _, record, start = train(tmp_path, hook, 3, model=Sparse())
    signs = [w >= 0 for w in [start["conv.weight"], *record.weight]]
    assert not record.gamma[7].equal(record.gamma[8]) and record.gamma[5].equal(record.gamma[3])
    share = F.flip_share(signs[3], signs[9])  # the end at update 6 came without a gradient
    if magnitude == "weight":
        torch.testing.assert_close(record.gamma[8], share * F.weight_magnitude(record.weight[7]))
    assert share.any()


def test_resuming_with_other_options_starts_a_new_interval(tmp_path):
    train(tmp_path, BalanceHook(flip_interval=3), epochs=1)
    _, record, _ = train(tmp_path, BalanceHook(flip_interval=4, magnitude="gradient"), epochs=3, resume=True)
    assert record.gamma[-1].any()


def test_two_hooks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="BalanceHook is there 2 times: keep one"):
        train(tmp_path, BalanceHook(), more_hooks=[BalanceHook()])
