"""Every member through every treatment: what a training or an inference program does to any module.

MEMBERS says how each is built and what it takes; layers and estimators are found in the registry, so a new one is
covered by being registered. TREATMENTS are functions of a built member and its input; each gets a copy of its own.
"""

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from mmengine.model import ExponentialMovingAverage, StochasticWeightAverage
from mmengine.registry import MODELS
from torch import nn
from torch.optim.swa_utils import AveragedModel

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.estimators import ElasticSTE
from rebnn_mm.layers import BinaryLayer, ChannelShift, RPReLU, composed

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Member:
    """How to build a module, and its input for a number of images (or vectors)."""

    build: Callable[[], nn.Module]
    input: Callable[[int], torch.Tensor]


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8)


def vectors(count: int) -> torch.Tensor:
    return torch.randn(count, 4)


def registered(package: str) -> dict[str, Any]:
    return {
        name: kind for name, kind in MODELS.module_dict.items() if kind.__module__.startswith(f"rebnn_mm.{package}")
    }


def layer_members() -> dict[str, Member]:
    members = {}
    for name, kind in registered("layers").items():
        if not issubclass(kind, BinaryLayer):
            continue
        if issubclass(kind, nn.Conv2d):
            members[name] = Member(lambda kind=kind: kind(4, 6, 3, padding=1), images)
            members[f"{name} with norm"] = Member(
                lambda kind=kind: kind(4, 4, 3, padding=1, input_norm=True, shortcut=True), images
            )
        else:
            members[name] = Member(lambda kind=kind: kind(4, 6), vectors)
    return members


MEMBERS: dict[str, Member] = {
    **layer_members(),
    **{name: Member(kind, images) for name, kind in registered("estimators").items()},
    "ElasticSTE": Member(lambda: ElasticSTE(unsigned=True), images),  # its signs depend on both parameters
    "ReBNNConv2d of elastic inputs": Member(
        lambda: MODELS.get("ReBNNConv2d")(4, 6, 3, estimator=dict(type="ElasticSTE")), images
    ),
    "ReBNNConv2d of stage one": Member(lambda: MODELS.get("ReBNNConv2d")(4, 6, 3, activation_only=True), images),
    "ReBNNConv2d of real inputs": Member(lambda: MODELS.get("ReBNNConv2d")(4, 6, 3, weight_only=True), images),
    "ChannelShift": Member(lambda: ChannelShift(4), images),
    "RPReLU": Member(lambda: RPReLU(4), images),
    "ReBNNResNet": Member(lambda: ReBNNResNet(18, in_channels=4, base_channels=4, stem="cifar"), images),
}  # fmt: skip


def tensors(output: Any) -> tuple[torch.Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def run(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return tensors(module.eval()(x))


def assert_same(found: nn.Module | tuple, expected: nn.Module | tuple, x: torch.Tensor) -> None:
    """Bit for bit the same outputs in evaluation."""
    found, expected = (run(side, x) if isinstance(side, nn.Module) else side for side in (found, expected))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def train(module: nn.Module, x: torch.Tensor) -> nn.Module:
    """One step of training, where there is something to learn."""
    module.train()
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if parameters:
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        optimizer.zero_grad()
        sum(output.square().mean() for output in tensors(module(x))).backward()
        optimizer.step()
    return module


def gradients(module: nn.Module, x: torch.Tensor, forward: Callable[..., Any] | None = None) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    outputs = tensors((module.train() if forward is None else forward)(x))
    loss = sum(
        (output * torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)).sum() for output in outputs
    )
    return list(torch.autograd.grad(loss, [x, *module.parameters()]))


# treatments -----------------------------------------------------------------------------------------------------------


def deepcopy(module, x):
    assert_same(copy.deepcopy(module), module, x)
    trained = train(copy.deepcopy(module), x)
    assert_same(copy.deepcopy(trained), trained, x)


def pickled(module, x):
    assert_same(pickle.loads(pickle.dumps(module)), module, x)
    buffer = io.BytesIO()
    torch.save(train(module, x), buffer)
    assert_same(torch.load(io.BytesIO(buffer.getvalue()), weights_only=False), module, x)


def averages(kind):
    """The average of one update is the model; saving it, twice, tells the same and changes nothing."""

    def treatment(module, x):
        if kind is AveragedModel and not any(True for _ in module.parameters()):
            pytest.skip("torch averages modules with parameters only")
        average = kind(module)
        train(module, x)
        average.update_parameters(module)
        expected = run(module, x)
        assert_same(average.module, expected, x)
        twin = copy.deepcopy(module)
        for _ in range(2):
            twin.load_state_dict(average.module.state_dict())
        assert_same(twin, expected, x)
        train(module, x)
        average.update_parameters(module)
        for name, value in average.module.state_dict().items():
            assert torch.equal(value, average.module.state_dict(keep_vars=True)[name])

    return treatment


def state_dict(module, x):
    before = {name: value.detach().clone() for name, value in module.state_dict(keep_vars=True).items()}
    saved = module.state_dict()
    assert all(torch.equal(before[name], value) for name, value in module.state_dict(keep_vars=True).items())
    twin = train(copy.deepcopy(module), x)
    twin.load_state_dict(saved)
    assert_same(twin, module, x)
    train(module, x)
    twin.load_state_dict(module.state_dict(), assign=True)
    assert_same(twin, module, x)


def default_dtype(dtype):
    def treatment(module, x):
        expected, slopes = run(module, x), gradients(copy.deepcopy(module), x)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            assert_same(module, expected, x)
            for found, slope in zip(gradients(copy.deepcopy(module), x), slopes, strict=True):
                assert found.dtype == slope.dtype and torch.equal(found, slope)
        finally:
            torch.set_default_dtype(before)

    return treatment


def default_device(module, x):
    """A forward allocates nothing where the default says, but beside its input."""
    expected = run(module, x)
    with torch.device("meta"):
        assert_same(module, expected, x)


def inference_mode(module, x):
    expected = run(module, x)
    with torch.inference_mode():
        found = tensors(module(x))
    assert_same(found, expected, x)
    train(module, x)  # nothing of the inference is left in it


def autocast(module, x):
    with torch.autocast("cpu", torch.bfloat16):
        outputs = tensors(module.train()(x))
        loss = sum(output.float().square().mean() for output in outputs)
    assert torch.isfinite(loss)
    for gradient in (
        torch.autograd.grad(loss, list(module.parameters()), allow_unused=False) if loss.requires_grad else ()
    ):
        assert torch.isfinite(gradient).all() and gradient.dtype == torch.float32


def channels_last(module, x):
    if x.dim() == 4:
        for a, b in zip(
            run(module.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)),
            run(module, x),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


def empty_batch(module, x):
    full = run(module, x)
    for empty, output in zip(run(module, x[:0]), full, strict=True):
        assert empty.shape == (0, *output.shape[1:])


def exported(module, x):
    expected = run(module, x)
    program = torch.export.export(module.eval(), (x,))
    with torch.no_grad():
        assert_same(tensors(program.module()(x)), expected, x)
    assert_same(module, expected, x)


def compiled(module, x):
    twin = copy.deepcopy(module)
    torch._dynamo.reset()
    forward = torch.compile(twin.train(), backend="eager")
    with composed():  # as torch.compile takes it; one function rounds otherwise, and signs behind it turn
        eager = gradients(module, x)
    for found, expected in zip(gradients(twin, x, forward), eager, strict=True):
        torch.testing.assert_close(found, expected)
    with torch.no_grad():
        assert_same(tensors(torch.compile(twin.eval(), backend="eager")(x)), module, x)


def frozen(module, x):
    expected = run(module, x)
    before = {name: value.clone() for name, value in module.named_parameters()}
    outputs = tensors(module.requires_grad_(False).train()(x))
    assert not any(output.requires_grad for output in outputs)
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())
    if not any(isinstance(part, nn.modules.batchnorm._NormBase) for part in module.modules()):
        assert_same(module, expected, x)


def through_meta(module, x):
    expected, saved = run(module, x), copy.deepcopy(module.state_dict())
    module.to("meta").to_empty(device="cpu").load_state_dict(saved)
    assert_same(module, expected, x)
    train(module, x)


TREATMENTS: dict[str, Callable[[nn.Module, torch.Tensor], None]] = {
    "deepcopy": deepcopy,
    "pickle": pickled,
    "EMA": averages(lambda module: ExponentialMovingAverage(module, momentum=0.5)),
    "EMA with buffers": averages(lambda module: ExponentialMovingAverage(module, momentum=0.5, update_buffers=True)),
    "mmengine SWA": averages(StochasticWeightAverage),
    "torch SWA": averages(AveragedModel),
    "state dict": state_dict,
    "default bfloat16": default_dtype(torch.bfloat16),
    "default float64": default_dtype(torch.float64),
    "default device": default_device,
    "inference mode": inference_mode,
    "autocast": autocast,
    "channels last": channels_last,
    "empty batch": empty_batch,
    "export": exported,
    "compile": compiled,
    "frozen": frozen,
    "through meta": through_meta,
}


@pytest.fixture(scope="module")
def built() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """Each member with a weight that was initialised after the constructor, as frameworks do, and an input."""
    torch.manual_seed(0)
    members = {}
    for name, member in MEMBERS.items():
        module = member.build()
        for part in module.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(part.weight, std=0.5)
        members[name] = module, member.input(8 if member.input is vectors else 2)
    return members


def cases():
    """Every member with every treatment; tracing a whole network takes seconds."""
    for member in MEMBERS:
        for treatment in TREATMENTS:
            slow = member == "ReBNNResNet" and treatment in ("compile", "export")
            marks = [pytest.mark.slow] if slow else []
            yield pytest.param(member, treatment, marks=marks, id=f"{member}-{treatment}")


@pytest.mark.parametrize(("member", "treatment"), cases())
def test_treatment(built, member, treatment):
    module, x = built[member]
    torch.manual_seed(1)
    TREATMENTS[treatment](copy.deepcopy(module), x)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("fill", ["load", "assign", "reset"])
def test_built_on_the_meta_device(built, member, fill):
    module, x = built[member]
    with torch.device("meta"):
        twin = MEMBERS[member].build()
    if fill != "assign":
        twin.to_empty(device="cpu")
    if fill == "reset":
        for part in twin.modules():
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        assert all(torch.isfinite(output).all() for output in run(twin, x))
    else:
        twin.load_state_dict(module.state_dict(), assign=fill == "assign")
        assert_same(twin, module, x)


def test_every_registered_member_is_here():
    assert len(registered("layers")) >= 15 and len(registered("estimators")) >= 3
    assert {name for name, kind in registered("layers").items() if issubclass(kind, BinaryLayer)} <= set(MEMBERS)
