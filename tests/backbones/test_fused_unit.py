"""A unit as one autograd function beside the unit layer by layer."""

import copy

import pytest
import torch
from torch import nn

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.backbones.blocks import Around, BinaryUnit
from rebnn_mm.backbones.fused_unit import unit_fuses
from rebnn_mm.deploy.kernels.library import isas, use_isa
from rebnn_mm.layers import composed

NATIVE = [isa for isa in isas() if isa != "torch"]
pytestmark = pytest.mark.skipif(not NATIVE, reason="the native kernels are not built")

METHODS = ("Sign", "XNOR", "BiReal", "ReAct", "ReCU", "ReBNN")


def make(method="ReBNN", c_in=20, c_out=20, stride=1, around=None, kernel=3, **options):
    torch.manual_seed(0)
    conv = dict(type=f"{method}Conv2d") | options
    unit = BinaryUnit(c_in, c_out, kernel, stride, conv, dict(type="BN"), around)
    for parameter in unit.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    x = torch.randn(3, c_in, 9, 7)
    same = stride == 1 and c_in == c_out
    shortcut = x if same else torch.randn(3, c_out, (9 - 1) // stride + 1, (7 - 1) // stride + 1)
    return unit, x, shortcut


def run(unit, x, shortcut, plain):
    """The result, the gradients of inputs and parameters, the running statistics, and the bytes kept besides them."""
    unit = copy.deepcopy(unit)
    known = {p.data_ptr() for p in unit.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in known:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    given = x.clone().requires_grad_()
    other = given if shortcut is x else shortcut.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if plain:
            with composed():
                y = unit(given, other)
        else:
            assert unit_fuses(unit, given, other)
            y = unit(given, other)
    seed = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    inputs = dict(x=given, **({} if shortcut is x else dict(shortcut=other)), **dict(unit.named_parameters()))
    gradients = dict(zip(inputs, torch.autograd.grad(y, list(inputs.values()), seed), strict=True))
    return y.detach(), gradients, dict(unit.named_buffers()), sum(kept.values())


def assert_same(unit, x, shortcut, less_exact=()):
    (y, grads, state, _), (expected, wanted, other, _) = run(unit, x, shortcut, False), run(unit, x, shortcut, True)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    for name, value in state.items():
        torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-5)
    for name, grad in grads.items():
        if name != "conv.alpha":  # behind a batch norm: rounding, and nothing else, see below
            torch.testing.assert_close(grad, wanted[name], rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    return grads, wanted


@pytest.mark.parametrize("isa", NATIVE)
@pytest.mark.parametrize("act", ["rprelu", "prelu", "none"])
@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_shape_of_a_unit(act, shift, stride, isa):
    with use_isa(isa):
        assert_same(*make(around=Around(act, shift), stride=stride, c_out=20 if stride == 1 else 35))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("training", [True, False])
def test_every_method(method, training):
    unit, x, shortcut = make(method)
    unit.norm.running_var.uniform_(50, 200)
    unit.norm.train(training)  # norm_eval=True
    assert_same(unit, x, shortcut)
    assert_same(*make(method, kernel=1))


def test_alpha_has_a_gradient_where_the_norm_does_not_cancel_it():
    unit, x, shortcut = make()
    unit.norm.eval()
    unit.norm.running_var.fill_(100.0)
    grads, wanted = assert_same(unit, x, shortcut)
    torch.testing.assert_close(grads["conv.alpha"], wanted["conv.alpha"], rtol=1e-4, atol=1e-4)
    unit.norm.train()
    behind, wanted = assert_same(unit, x, shortcut)
    torch.testing.assert_close(behind["conv.alpha"], wanted["conv.alpha"], rtol=1e-3, atol=1e-3)
    assert behind["conv.alpha"].abs().median() < 1e-3 * grads["conv.alpha"].abs().median()


def test_cumulative_statistics_and_frozen_parts():
    unit, x, shortcut = make()
    unit.norm.momentum = None
    assert_same(unit, x, shortcut)
    for frozen in (unit.norm, unit.shift, unit.act.prelu, unit.conv):
        frozen.requires_grad_(False)
        y = unit(x, shortcut)
        y.square().sum().backward()
        assert all((p.grad is not None) == p.requires_grad for p in unit.parameters() if p is not unit.conv.alpha)
        unit.zero_grad(set_to_none=True)
    unit.requires_grad_(False)
    assert not unit(x, shortcut).requires_grad


def test_what_is_kept():
    """The input in full and 16 bits for each integer; or a byte for the input, and 16 + 8 bits for each result."""
    unit, x, shortcut = make(c_in=64, c_out=64)
    slack = 20 * 4 * 64
    composed_bytes = run(unit, x, shortcut, True)[3]
    assert x.numel() * 6 <= run(unit, x, shortcut, False)[3] <= x.numel() * 6 + slack
    unit.conv.keep = "code"
    assert x.numel() * 4 <= run(unit, x, shortcut, False)[3] <= x.numel() * 4 + slack < 0.3 * composed_bytes


@pytest.mark.parametrize("method", ["Sign", "ReBNN"])
@pytest.mark.parametrize(("stride", "scale"), [(1, 1), (2, 1), (2, 50)])
def test_short_codes(method, stride, scale):
    unit, x, shortcut = make(method, stride=stride)
    shortcut = shortcut * scale if shortcut is not x else shortcut
    _, exact, _, _ = run(unit, x, shortcut, False)
    unit.conv.keep = "code"
    _, short, _, _ = run(unit, x, shortcut, False)
    assert method == "Sign" or not torch.equal(short["x"], exact["x"])  # the clipped estimator's slope is a bit
    bounds = {"x": 0.01, "shift.shift": 0.02, "act.prelu.weight": 0.05}
    for name, grad in short.items():
        if name in bounds:
            assert (grad - exact[name]).norm() < bounds[name] * exact[name].norm(), name
        elif name != "conv.alpha":
            torch.testing.assert_close(grad, exact[name], rtol=1e-5, atol=1e-5)


def test_a_unit_that_is_watched_or_changed_runs_layer_by_layer():
    unit, x, shortcut = make()
    assert unit_fuses(unit, x, shortcut)
    with torch.no_grad():
        assert not unit_fuses(unit, x, shortcut)
    with torch.autocast("cpu", torch.bfloat16):
        assert not unit_fuses(unit, x, shortcut)
    for part in (unit.conv, unit.norm, unit.act.prelu, unit.shift, unit.conv.estimator):
        handle = part.register_forward_hook(lambda module, inputs, output: None)
        assert not unit_fuses(unit, x, shortcut)
        handle.remove()
    assert not unit_fuses(unit, x.double(), shortcut.double())
    assert not unit_fuses(unit, x.contiguous(memory_format=torch.channels_last), shortcut)
    assert not unit_fuses(unit, x[:1, :, :1, :1], shortcut[:1, :, :1, :1])  # one value a channel
    assert not unit_fuses(make("IRNet")[0], x, shortcut) and not unit_fuses(make(bias=True)[0], x, shortcut)
    norm = unit.norm
    unit.norm = nn.SyncBatchNorm(20)
    assert not unit_fuses(unit, x, shortcut)
    unit.norm = norm
    plain = BinaryUnit(20, 20, 3, 1, dict(type="Conv2d"), dict(type="BN"))
    assert not unit_fuses(plain, x, shortcut)
    plain(x, shortcut).sum().backward()


@pytest.mark.slow
def test_compiled_and_distributed(tmp_path):
    unit, x, shortcut = make()
    _, wanted, _, _ = run(unit, x, shortcut, False)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(unit), backend="aot_eager", fullgraph=True)
    compiled(x, shortcut)
    compiled.zero_grad()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        spread = nn.parallel.DistributedDataParallel(copy.deepcopy(unit))
        assert unit_fuses(spread.module, x, shortcut)
        for other in (compiled, spread):
            y = other(x, shortcut)
            y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)))
    finally:
        torch.distributed.destroy_process_group()
    for name, _ in unit.named_parameters():
        if name != "conv.alpha":
            for other in (compiled._orig_mod, spread.module):
                grad = other.get_parameter(name).grad
                torch.testing.assert_close(grad, wanted[name], rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_second_derivatives_are_refused():
    unit, x, _ = make()
    x.requires_grad_()
    (grad,) = torch.autograd.grad(unit(x, x).sum(), x, create_graph=True)
    with pytest.raises(ValueError, match="no second derivative"):
        grad.square().sum().backward()


def test_a_network_learns_the_same():
    """Signs of values next to 0 may differ after rounding, so the first losses are compared, and the direction."""
    torch.manual_seed(0)
    one = ReBNNResNet(18, base_channels=8, stem="cifar")
    head = nn.Linear(64, 4)
    two, other = copy.deepcopy(one), copy.deepcopy(head)
    images, labels = torch.randn(16, 3, 16, 16), torch.randint(0, 4, (16,))

    def losses(net, head):
        optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], 1e-3)
        found = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(head(net(images)[0].mean((2, 3))), labels)
            loss.backward()
            optimizer.step()
            found.append(float(loss))
        return found

    fused = losses(one, head)
    with composed():
        plain = losses(two, other)
    assert abs(fused[0] - plain[0]) < 1e-3 and fused[-1] < 0.7 * fused[0] and plain[-1] < 0.7 * plain[0]


def test_in_evaluation_a_gradient_changes_no_bit():
    unit, x, shortcut = make()
    unit(x, shortcut)
    unit.eval()
    with torch.no_grad():
        expected = unit(x, shortcut)
    assert not unit_fuses(unit, x, shortcut)
    assert torch.equal(unit(x, shortcut), expected)
