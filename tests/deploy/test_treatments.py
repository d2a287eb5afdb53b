"""What people do to a module, done to every packed one: the same bits afterwards, or a sentence."""

import copy
import gc
import io
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch_defaults import torch_defaults

from rebnn_mm.backbones import ReBNNResNet
from rebnn_mm.deploy import ModelCard, Preprocessing, export_model, load_model
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.kernels import library
from rebnn_mm.deploy.layers.modules import PackedConv2d, PackedLayer, PackedLinear
from rebnn_mm.deploy.layers.operators import Conv2dPlan, LinearPlan
from rebnn_mm.deploy.layers.pool import max_pool_norm
from rebnn_mm.deploy.load import PackedClassifier
from rebnn_mm.deploy.operation.bits import to_bits
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import Epilogue, InputSide
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear

pytestmark = [pytest.mark.usefixtures("threads"), pytest.mark.slow]
NATIVE = [name for name in library.isas() if name != library.PURE_TORCH]


def vectors(count, channels):
    return tuple(torch.randn(channels) for _ in range(count))


def full_conv():
    before = InputSide(*vectors(1, 6), vectors(2, 6))
    after = Epilogue(torch.rand(8), *vectors(1, 8), vectors(2, 8), *vectors(3, 8))
    return PackedConv2d(to_bits(torch.randn(8, 6, 3, 3)), ConvSpec.of((8, 6, 3, 3), padding=1), before, after)


def padded_conv():
    bits, after = to_bits(torch.randn(6, 6, 3, 3)), Epilogue(torch.rand(6))
    return PackedConv2d(bits, ConvSpec((6, 6, 3, 3)), InputSide(), after, ((1, 1, 1, 1), "reflect"), True)


def linear():
    norm = nn.LayerNorm(6, elementwise_affine=False)
    after = Epilogue(torch.rand(6), torch.randn(6))
    return PackedLinear(to_bits(torch.randn(6, 6)), ConvSpec.linear(6, 6), InputSide(), after, norm, True)


def from_file(trained, **options):
    with tempfile.TemporaryDirectory() as folder:
        export_model(trained, Path(folder) / "m.rebnn")
        return load_model(Path(folder) / "m.rebnn", **options)


def resnet():
    return from_file(ReBNNResNet(18, base_channels=8).eval())


def classifier():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = ReBNNResNet(18, base_channels=8, out_indices=(3,))
            self.head = nn.Linear(64, 5)

        def forward(self, x):
            return self.head(self.backbone(x)[0].mean((2, 3)))

    card = ModelCard(preprocessing=Preprocessing((120.0,) * 3, (60.0,) * 3))
    with tempfile.TemporaryDirectory() as folder:
        export_model(Classifier().eval(), Path(folder) / "m.rebnn", card)
        return load_model(Path(folder) / "m.rebnn")


def own_model():
    def make():
        return nn.Sequential(
            ReBNNConv2d(6, 8, 3, padding=1, bias=True),
            nn.BatchNorm2d(8),
            ReBNNConv2d(8, 8, 3, padding=1, groups=2, shortcut=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            ReBNNLinear(8, 5, input_norm=True),
        ).eval()

    with tempfile.TemporaryDirectory() as folder:
        export_model(make(), Path(folder) / "m.rebnn", parts=[])
        return load_model(Path(folder) / "m.rebnn", model=make())


MAPS, ROWS, IMAGES = (2, 6, 9, 11), (3, 4, 6), (2, 3, 40, 48)
# name -> (how it is made, shape of its input)
MEMBERS = {
    "PackedConv2d": (full_conv, MAPS),
    "PackedConv2d, padded with neighbours": (padded_conv, MAPS),
    "PackedLinear": (linear, ROWS),
    "GraphNetwork": (resnet, IMAGES),
    "PackedClassifier": (classifier, IMAGES),
    "model of one's own": (own_model, MAPS),
}


def flat(outputs):
    return [outputs] if isinstance(outputs, torch.Tensor) else [t for part in outputs for t in flat(part)]


def same(a, b):
    a, b = flat(a), flat(b)
    return len(a) == len(b) and all(torch.equal(u, v) for u, v in zip(a, b, strict=True))


def through_pickle(module, x):
    return pickle.loads(pickle.dumps(module))(x)


def through_torch_save(module, x):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)(x)


def through_another_isa(module, x):
    """As another machine would have it: pickled here, read and prepared for the instruction set that is there."""
    data = pickle.dumps(module)
    for name in library.isas():
        with library.use_isa(name):
            y = pickle.loads(data)(x)
            assert same(y, module(x)), name
    return y


def _spoil(module):
    """A copy of the module with other values in every tensor."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in [*other.parameters(), *other.buffers()]:
            if tensor.dtype == torch.uint8:
                tensor.bitwise_not_()
            else:
                tensor.add_(1)
    return other


def through_state_dict(module, x):
    other = _spoil(module)
    assert not same(other(x), module(x))  # what is in the state dict counts
    other.load_state_dict(module.state_dict())
    return other(x)


def through_assigned_state_dict(module, x):
    other = _spoil(module)
    other(x)
    other.load_state_dict({k: v.clone() for k, v in module.state_dict().items()}, assign=True)
    return other(x)


def through_functional_call(module, x):
    other = _spoil(module)
    before = other(x)
    y = torch.func.functional_call(other, dict(module.state_dict()), (x,))
    assert same(other(x), before)
    return y


def through_meta_and_back(module, x):
    other = copy.deepcopy(module).to("meta")
    other.to_empty(device="cpu").load_state_dict(module.state_dict())
    return other(x)


def under_dtype(dtype):
    def treat(module, x):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            return copy.deepcopy(module)(x)
        finally:
            torch.set_default_dtype(before)

    return treat


def under_meta_device(module, x):
    with torch.device("meta"):
        return copy.deepcopy(module)(x)


def under_default_device(module, x):
    torch.set_default_device("meta")
    try:
        return copy.deepcopy(module)(x)
    finally:
        torch.set_default_device(None)


def in_inference_mode(module, x):
    with torch.inference_mode():
        return copy.deepcopy(module)(x)


def made_in_inference_mode(module, x):
    with torch.inference_mode():
        other = copy.deepcopy(module)
        spoilt = _spoil(module)
        spoilt(x)
        spoilt.load_state_dict(module.state_dict())
        assert same(spoilt(x), module(x))
    with torch.no_grad():
        return other(x)


def under_autocast(module, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return module(x)


def channels_last(module, x):
    return module(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.mT.contiguous().mT)


def views(module, x):
    wide = torch.cat([x, x], dim=-1)[..., : x.shape[-1]]  # not dense
    behind = torch.cat([x.flatten()[:3], x.flatten()])[3:].view(x.shape)  # begins inside its memory
    negated = torch._neg_view(-x)  # a lazy minus sign
    for view in (wide, behind, negated):
        assert torch.equal(view, x) and same(module(view), module(x))
    one = x[:1].expand_as(x)  # one image several times, without copies
    assert same(module(one), module(one.contiguous()))
    return module(x)


def empty_batch(module, x):
    nothing, something = flat(module(x[:0])), flat(module(x))
    assert [t.shape for t in nothing] == [(0, *t.shape[1:]) for t in something]
    return something


def through_export(module, x):
    return torch.export.export(module, (x,)).module()(x)


def through_compile(module, x):
    torch._dynamo.reset()
    return torch.compile(module, backend="eager")(x)


def through_trace(module, x):
    traced = torch.jit.trace(module, (torch.randn_like(x),))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    return torch.jit.load(file)(x)


def through_make_fx(module, x):
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(module)(torch.randn_like(x))(x)


def through_fake_make_fx(module, x):
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(module, tracing_mode="fake", _allow_non_fake_inputs=True)(torch.randn_like(x))(x)


def through_fx(module, x):
    return torch.fx.symbolic_trace(module)(x)


def without_gradients(module, x):
    y = module.requires_grad_(False)(x.clone().requires_grad_())
    return [t.detach() for t in flat(y)]


TREATMENTS = {
    "deepcopy": lambda module, x: copy.deepcopy(module)(x),
    "copy": lambda module, x: copy.copy(module)(x),
    "pickle": through_pickle,
    "torch.save": through_torch_save,
    "another instruction set": through_another_isa,
    "state_dict": through_state_dict,
    "state_dict, assigned": through_assigned_state_dict,
    "functional_call": through_functional_call,
    "meta and back": through_meta_and_back,
    "bfloat16 by default": under_dtype(torch.bfloat16),
    "float16 by default": under_dtype(torch.float16),
    "float64 by default": under_dtype(torch.float64),
    "torch.device('meta')": under_meta_device,
    "meta by default": under_default_device,
    "inference_mode": in_inference_mode,
    "made in inference_mode": made_in_inference_mode,
    "autocast": under_autocast,
    "channels_last": channels_last,
    "views": views,
    "empty batch": empty_batch,
    "torch.export": through_export,
    "torch.compile": through_compile,
    "torch.jit.trace": through_trace,
    "make_fx": through_make_fx,
    "make_fx, fake": through_fake_make_fx,
    "torch.fx": through_fx,
    "requires_grad_(False)": without_gradients,
    "float().cpu()": lambda module, x: copy.deepcopy(module).float().cpu()(x),
}
REFUSED = {
    ("torch.fx", "PackedClassifier"): "control flow",  # it asks for the shape of its input
    ("torch.fx", "GraphNetwork"): "cannot be iterated",  # it takes any number of inputs
    ("torch.fx", "PackedConv2d, padded with neighbours"): "concrete_args",
}


@pytest.fixture(scope="module")
def made():
    """name -> (module, input, output), each made once; treatments copy what they change."""
    members = {}

    def get(name):
        if name not in members:
            make, shape = MEMBERS[name]
            torch.manual_seed(0)
            module = make().eval().requires_grad_(False)
            x = torch.randn(shape)
            with torch.no_grad():
                members[name] = module, x, module(x)
        return members[name]

    return get


SLOW = {("torch.compile", "GraphNetwork"), ("torch.compile", "PackedClassifier")}
PAIRS = [
    pytest.param(name, treatment, marks=[pytest.mark.slow] if (treatment, name) in SLOW else [])
    for name in MEMBERS
    for treatment in TREATMENTS
]


@pytest.mark.parametrize(("name", "treatment"), PAIRS)
def test_the_same_bits_or_a_sentence(made, name, treatment):
    module, x, expected = made(name)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's tracers
        if (treatment, name) in REFUSED:
            with pytest.raises(Exception, match=REFUSED[treatment, name]):
                TREATMENTS[treatment](module, x)
            return
        assert same(TREATMENTS[treatment](module, x), expected)
        assert same(module(x), expected)


def test_every_packed_module_is_a_member():
    kinds = {type(part) for name in MEMBERS for part in MEMBERS[name][0]().modules()}
    assert {*PackedLayer.__subclasses__(), GraphNetwork, PackedClassifier} <= kinds


@pytest.mark.slow
def test_a_spawned_process_gets_the_same_bits(tmp_path):
    # a program of its own: a spawned process imports the file that started it, as a user's does
    script = tmp_path / "main.py"
    script.write_text(
        """
import torch, torch.multiprocessing as mp
from torch import nn
from rebnn_mm.deploy import ModelCard, Preprocessing, export_model, load_model
from rebnn_mm.deploy.file.container import read_file
from rebnn_mm.backbones import ReBNNResNet

class Data(torch.utils.data.Dataset):
    def __init__(self, model):
        self.model = model
    def __len__(self):
        return 2
    def __getitem__(self, index):
        return self.model(torch.full((1, 3, 32, 32), 1.0 + index))[0]

def work(model, x, queue):
    queue.put(model(x)[0].numpy())

if __name__ == "__main__":
    torch.manual_seed(0)
    export_model(ReBNNResNet(18, base_channels=8, out_indices=(3,)).eval(), "m.rebnn")
    model, x = load_model("m.rebnn"), torch.randn(1, 3, 32, 32)
    context = mp.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=work, args=(model, x, queue))
    process.start()
    y = torch.from_numpy(queue.get(timeout=120))
    process.join()
    assert torch.equal(y, model(x)[0]) and process.exitcode == 0
    loader = torch.utils.data.DataLoader(Data(model), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    for index, y in enumerate(loader):
        assert torch.equal(y, Data(model)[index])
"""
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda module: module.half(), "alpha is torch.float16; packed layers take float32"),
        (lambda module: module.double(), "alpha is torch.float64"),
        (lambda module: module.to(torch.bfloat16), "alpha is torch.bfloat16"),
        (lambda module: module.to("meta"), "the bits are on meta .*run on the CPU"),
        (lambda module: setattr(module, "alpha", module.alpha[:3]), "alpha has one element for each of"),
        (lambda module: setattr(module, "bits", module.bits[:3]), "the bits of a weight .* are a uint8 tensor"),
    ],
)
@pytest.mark.parametrize("make", [full_conv, linear])
def test_what_a_packed_layer_cannot_be_is_said(make, change, match):
    module, x = make(), torch.randn(2, 6, 5, 6)
    expected = module(x)
    other = copy.deepcopy(module)
    change(other)
    for _ in range(2):
        with pytest.raises((TypeError, ValueError), match=match):
            other(x)
    for name, tensor in module.state_dict().items():
        setattr(other, name, tensor)
    assert torch.equal(other(x), expected)


@pytest.mark.parametrize("make", [full_conv, linear])
def test_inputs_of_other_kinds_are_refused(make):
    module, x = make(), torch.randn(2, 6, 5, 6)
    for other, match in (
        (x.bfloat16(), "bfloat16.*outside of autocast"),
        (x.half(), "float16"),
    ):
        with torch.no_grad(), pytest.raises((TypeError, RuntimeError), match=match):
            module(other)
    with pytest.raises((TypeError, RuntimeError)):
        module(x.to_sparse())


def test_every_member_of_a_state_dict_counts():
    module, x = full_conv(), torch.randn(MAPS)
    names = {"bits", "alpha", "shift", "input_scale", "input_offset", "bias", "scale", "offset", "before", "slope"}
    assert set(module.state_dict()) == names | {"after"}
    for name in module.state_dict():
        before = module(x)
        tensor = getattr(module, name)
        tensor.bitwise_not_() if name == "bits" else tensor.add_(1)
        assert not torch.equal(module(x), before), name


def test_plans_are_copied_and_pickled():
    torch.manual_seed(0)
    bits, x = to_bits(torch.randn(8, 6, 3, 3)), torch.randn(MAPS)
    after = Epilogue(torch.rand(8), None, None, *vectors(3, 8))
    plan = Conv2dPlan(bits, ConvSpec.of((8, 6, 3, 3), padding=1), InputSide(), after)
    rows = LinearPlan(to_bits(torch.randn(4, 6)), ConvSpec.linear(4, 6), InputSide(), Epilogue(torch.rand(4)))
    expected = plan(x)
    bits.zero_()  # the plan has its own
    for treat in (copy.copy, copy.deepcopy, lambda plan: pickle.loads(pickle.dumps(plan))):
        assert torch.equal(treat(plan)(x), expected)
        assert torch.equal(treat(rows)(x.mT[..., :6]), rows(x.mT[..., :6]))


def test_operators_keep_a_plan_as_long_as_its_tensors_and_no_longer():
    from rebnn_mm.deploy.layers import operators as ours

    module, x = full_conv(), torch.randn(MAPS)
    compiled = torch.compile(module, backend="eager")
    gc.collect()  # what other tests left goes now, and not in between
    count, made = len(ours._plans), []
    original = ours.Conv2dPlan.__init__
    try:
        ours.Conv2dPlan.__init__ = lambda self, *args, **kwargs: (made.append(1), original(self, *args, **kwargs))[1]
        for _ in range(3):
            assert torch.equal(compiled(x), module(x))
        assert len(made) == 1
        module.alpha.mul_(2)
        assert torch.equal(compiled(x), module(x))
    finally:
        ours.Conv2dPlan.__init__ = original
    assert len(ours._plans) == count + 1
    del module, compiled
    torch._dynamo.reset()
    gc.collect()
    assert len(ours._plans) == count
    for seed in range(20):  # memory that is used again belongs to another weight
        torch.manual_seed(seed)
        module = full_conv()
        assert torch.equal(ours.binary_conv2d(x, *module.arguments()), module(x))


@pytest.mark.skipif(not NATIVE, reason="the native library is not built")
def test_the_pool_takes_only_what_it_can_read():
    x, scale = torch.randn(1, 4, 6, 6), torch.rand(4)
    expected = max_pool_norm(x, scale, scale)
    with torch_defaults(torch.bfloat16):
        assert torch.equal(max_pool_norm(x, scale, scale), expected)
    for arguments, match in (
        ((x.double(), scale, scale), "input is torch.float64"),
        ((x, scale.half(), scale), "scale is torch.float16"),
        ((x, scale, scale[:3]), "offset has one element for each of 4"),
        ((x.to("meta"), scale, scale), "on meta"),
        ((x[:, :, :0], scale, scale), "at least 1"),
    ):
        with pytest.raises((TypeError, ValueError), match=match):
            max_pool_norm(*arguments)


def test_a_file_is_loaded_whatever_the_defaults_are(tmp_path):
    torch.manual_seed(0)
    net, x = ReBNNResNet(18, base_channels=8).eval(), torch.randn(IMAGES)
    export_model(net, tmp_path / "m.rebnn")
    with torch_defaults(torch.bfloat16):
        packed = load_model(tmp_path / "m.rebnn")
    with torch.no_grad():
        assert same(packed(x), net(x))
    with torch.inference_mode():
        assert same(load_model(tmp_path / "m.rebnn")(x), net(x))
