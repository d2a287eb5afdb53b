import copy
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from plain_classifier import export_plain_classifier
from torch import nn

from rebnn_mm.deploy import Check, ModelCard, Preprocessing, RebnnFileError, export_model, load_model
from rebnn_mm.deploy.file.container import read_file, write_file
from rebnn_mm.deploy.file.tensors import BinaryTensor
from rebnn_mm.deploy.graph.lower import lower
from rebnn_mm.deploy.layers.packable import check_layer, padding_of
from rebnn_mm.errors import UserError
from rebnn_mm.layers import ReBNNConv2d, ReBNNLinear
from rebnn_mm.progress import showing_steps

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("threads")
IMAGES = (torch.randn(1, 3, 64, 64), torch.randn(2, 3, 45, 71))


@pytest.mark.slow
def test_card_and_report(classifier, tmp_path):
    model = classifier()
    card = ModelCard(
        config={"default_scope": "mmpretrain", "scale": (32, 32)},
        classes=tuple("abcdefghij"),
        preprocessing=Preprocessing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "bgr", (32, 32)),
        method="ReBNNConv2d",
        source_commit="0123",
        metrics={"top1": 0.5},
    )
    report = export_model(model, tmp_path / "m.rebnn", card, Check(IMAGES))
    assert ModelCard.from_plain(read_file(tmp_path / "m.rebnn").info) == card
    assert report.checked == 2 and report.size == (tmp_path / "m.rebnn").stat().st_size
    assert report.before == sum(t.numel() * t.element_size() for t in model.state_dict().values())
    text = str(report)
    assert "backbone.layer1.0.unit.conv     1-bit             9,344          352" in text  # 16 * 144 bits and 16 alphas
    assert "16 of 21 layers are 1-bit" in text and "same bits on 2 inputs" in text


@pytest.mark.slow
def test_the_exported_model_is_untouched(classifier, tmp_path):
    model = classifier().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_model(model, tmp_path / "m.rebnn", check=Check(IMAGES[:1]), float16=True)
    assert model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_model_that_differs_is_refused_and_nothing_is_written(classifier, tmp_path):
    class Shifted(ReBNNConv2d):
        def forward(self, x):
            return super().forward(x) + 1

    model = nn.Sequential(Shifted(3, 4, 3))
    with pytest.raises(ValueError, match="0 is a Shifted with a forward of its own"):
        export_model(model, tmp_path / "m.rebnn", check=Check(IMAGES))
    changed = nn.Sequential(ReBNNConv2d(3, 4, 3), nn.Identity())
    changed[1].register_forward_hook(lambda module, args, output: output + 1)
    other = nn.Sequential(ReBNNConv2d(3, 4, 3), nn.Identity())
    check = Check(IMAGES, load=lambda path: load_model(path, model=other))
    with pytest.raises(ValueError, match="differs from the trained one: input 0, output 0, by up to 1"):
        export_model(changed, tmp_path / "m.rebnn", check=check, parts=[])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_float16_states_its_error_and_equals_the_rounded_model(classifier, tmp_path):
    model = classifier()
    full = export_model(model, tmp_path / "full.rebnn")
    half = export_model(model, tmp_path / "half.rebnn", check=Check(IMAGES), float16=True)
    assert half.size < full.size and 0 < half.float16["weights"] < 1e-3 and half.float16["outputs"] > 0
    assert read_file(tmp_path / "half.rebnn").info["float16"] == half.float16
    tensors = read_file(tmp_path / "half.rebnn").tensors
    halves = {n for n, t in tensors.items() if not isinstance(t, BinaryTensor) and t.dtype == torch.float16}
    assert halves == {"backbone.stem.0.weight", "head.fc.weight"} | {
        f"backbone.layer{i}.0.downsample.1.weight" for i in (2, 3, 4)
    }
    model.head.fc.weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match="head.fc.weight reaches 1e\\+06"):
        export_model(model, tmp_path / "m.rebnn", float16=True)


class Scaled(nn.Module):
    """A weight that the graph holds multiplied: no longer a number of 16 bits."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3), ReBNNConv2d(8, 8, 3)

    def forward(self, x):
        return self.conv(nn.functional.conv2d(x, self.stem.weight * 0.1234))


def test_a_weight_that_a_pass_changed_is_rounded_once(tmp_path):
    torch.manual_seed(0)
    model, x = Scaled().eval(), torch.randn(2, 3, 12, 12)
    export_model(model, tmp_path / "m.rebnn", check=Check([x]), float16=True)
    model.stem.weight.data.copy_(model.stem.weight.half())
    assert torch.equal(load_model(tmp_path / "m.rebnn")(x), model(x))


def test_what_cannot_be_exported_says_why(tmp_path):
    with pytest.raises(ValueError, match="give at least one input"):
        Check([])
    with pytest.raises(ValueError, match="model is of type OrderedDict"):
        export_model(nn.Conv2d(3, 4, 3).state_dict(), tmp_path / "m.rebnn")
    with pytest.raises(ValueError, match="nothing to pack"):
        export_model(nn.Conv2d(3, 4, 3), tmp_path / "m.rebnn")
    with pytest.raises(ValueError, match="float64: call model.float"):
        export_model(nn.Sequential(ReBNNConv2d(3, 4, 3)).double(), tmp_path / "m.rebnn")
    with pytest.raises(ValueError, match="pads unevenly"):
        export_model(nn.Sequential(ReBNNConv2d(3, 4, 2, padding="same")), tmp_path / "m.rebnn")
    with pytest.raises(FileNotFoundError, match="make it first"):
        export_model(nn.Sequential(ReBNNConv2d(3, 4, 3)), tmp_path / "no/m.rebnn")
    with pytest.raises(TypeError, match="config.f is a function"):
        export_model(nn.Sequential(ReBNNConv2d(3, 4, 3)), tmp_path / "m", ModelCard(config={"f": lambda: 0}))


def test_alpha_of_a_layer_that_never_ran_is_taken_from_its_weight(tmp_path):
    layer = ReBNNConv2d(3, 4, 3)
    nn.init.constant_(layer.weight, 2.0)
    export_model(nn.Sequential(layer), tmp_path / "m.rebnn", check=Check(IMAGES))
    assert torch.equal(read_file(tmp_path / "m.rebnn").tensors["0.alpha"].flatten(), torch.full((4,), 2.0))


@pytest.mark.parametrize("weight_only", [False, True])
@pytest.mark.parametrize("mode", ["zeros", "circular", "replicate"])
@pytest.mark.parametrize("kernel", [2, (1, 3), 3])
def test_a_graph_and_a_packed_model_pad_alike(kernel, mode, weight_only):
    layer = ReBNNConv2d(3, 4, kernel, padding="same", padding_mode=mode, weight_only=weight_only, dilation=(1, 2))
    x = torch.randn(2, 3, 6, 7)
    if kernel == 2 and mode == "zeros":
        for refuses in (lambda: padding_of(layer, "net.0"), lambda: lower(layer), lambda: check_layer("net.0", layer)):
            with pytest.raises(UserError, match="pads unevenly with zeros"):
                refuses()
        return
    zeros, pad = padding_of(layer)
    assert (pad is None) == (mode == "zeros") and (pad is None or zeros == (0, 0))
    with torch.no_grad():
        assert torch.equal(lower(copy.deepcopy(layer).eval())(x), layer.eval()(x))


def own_model():
    """Every option of the layers, a shared layer, and tied weights."""
    shared = ReBNNConv2d(8, 8, 3, padding="same", bias=True, input_norm=True)
    tied = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
    tied[1].weight = tied[0].weight
    return nn.Sequential(
        ReBNNConv2d(3, 8, 3, padding=1, padding_mode="reflect", stride=(1, 2), bias=True),
        nn.BatchNorm2d(8),
        shared,
        *tied,
        shared,
        ReBNNConv2d(8, 8, 3, padding=1, shortcut=True),
        ReBNNConv2d(8, 8, 3, padding=1, padding_mode="reflect", bias=True, shortcut=True),
        ReBNNConv2d(8, 8, (3, 1), padding=(1, 0), groups=4, dilation=(2, 1), weight_only=True),
        ReBNNConv2d(8, 8, 3, activation_only=True),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.BatchNorm1d(32),
        ReBNNLinear(32, 5, bias=True),
    )


def test_any_model_of_ones_own(tmp_path):
    model = own_model().train()
    for _ in range(3):
        model(torch.randn(4, 3, 30, 40))
    report = export_model(
        model, tmp_path / "m.rebnn", check=Check((torch.randn(2, 3, 31, 45), torch.randn(1, 3, 30, 30))), parts=[]
    )
    assert report.checked == 2
    names = set(read_file(tmp_path / "m.rebnn").tensors)
    assert (
        "2.input_norm.scale" in names and not any(name.startswith("5.") for name in names) and "4.weight" not in names
    )
    packed = load_model(tmp_path / "m.rebnn", model=own_model())
    assert packed[2] is packed[5] and packed[3].weight is packed[4].weight
    x = torch.randn(3, 3, 33, 50)
    assert torch.equal(packed(x), model.eval()(x))
    with pytest.raises(RebnnFileError, match="needs a 1-bit one of shape"):
        load_model(tmp_path / "m.rebnn", model=nn.Sequential(ReBNNConv2d(3, 8, 5)))
    with pytest.raises(RebnnFileError, match="no place for"):
        load_model(tmp_path / "m.rebnn", model=own_model()[:1])
    with pytest.raises(RebnnFileError, match=r"give load_model\(path, model=...\)"):
        load_model(tmp_path / "m.rebnn")


def test_files_from_before_alpha_was_a_vector_load(tmp_path):
    model = nn.Sequential(ReBNNConv2d(3, 8, 3), ReBNNConv2d(8, 4, 1, weight_only=True)).eval()
    export_model(model, tmp_path / "m.rebnn", check=Check([torch.randn(2, 3, 9, 9)]), parts=[])
    file = read_file(tmp_path / "m.rebnn")
    old = {name: value.view(-1, 1, 1, 1) if name.endswith("alpha") else value for name, value in file.tensors.items()}
    assert old["0.alpha"].dim() == old["1.alpha"].dim() == 4
    write_file(tmp_path / "old.rebnn", file.info, old)
    x = torch.randn(2, 3, 7, 7)
    packed = load_model(tmp_path / "old.rebnn", model=copy.deepcopy(model))
    assert torch.equal(packed[0](x), model[0](x))
    torch.testing.assert_close(packed(x), model(x))  # a W1A32 layer sums real values


def test_any_model_of_ones_own_runs_with_torch_alone(tmp_path):
    model = own_model().train()
    for _ in range(3):
        model(torch.randn(4, 3, 30, 40))
    images = (torch.randn(2, 3, 31, 45), torch.randn(1, 3, 30, 30))
    report = export_model(model, tmp_path / "m.rebnn", check=Check(images, exact=True))
    assert "the whole model: a graph of" in str(report)
    packed, x = load_model(tmp_path / "m.rebnn"), torch.randn(3, 3, 33, 50)
    assert torch.equal(packed(x), model.eval()(x))
    names = read_file(tmp_path / "m.rebnn").tensors
    assert len([name for name in names if isinstance(names[name], BinaryTensor)]) == 5


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 8, affine=False), nn.Identity()])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_a_norm_that_packed_layers_do_not_compute_is_refused_outside_of_graphs(norm, kind, tmp_path):
    layer, x = (
        (ReBNNConv2d(8, 8, 1), torch.randn(2, 8, 5, 5)) if kind == "conv" else (ReBNNLinear(8, 8), torch.randn(4, 8))
    )
    layer.input_norm = norm
    model = nn.Sequential(layer).eval()
    with pytest.raises(UserError, match=f"{type(norm).__name__} as its input_norm, which no packed layer computes"):
        export_model(model, tmp_path / "m.rebnn", parts=[], check=Check([x]))
    export_model(model, tmp_path / "m.rebnn", check=Check([x], exact=True))  # a graph computes any
    assert torch.equal(load_model(tmp_path / "m.rebnn")(x), model(x))


def test_a_model_that_writes_into_its_images_is_exported_and_the_callers_stay(tmp_path):
    model, x = (
        nn.Sequential(nn.ReLU(inplace=True), ReBNNConv2d(3, 8, 3, input_norm=True)).eval(),
        torch.randn(2, 3, 9, 9),
    )
    before = x.clone()
    export_model(model, tmp_path / "m.rebnn", check=Check([x], exact=True))
    assert torch.equal(x, before)
    found = load_model(tmp_path / "m.rebnn")(x)
    assert torch.equal(x, before) and torch.equal(found, model(x))


def test_what_cannot_be_a_graph_is_packed_layer_by_layer_and_the_report_says_why(tmp_path):
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = ReBNNConv2d(3, 4, 3)

        def forward(self, x):
            y = self.conv(x)
            return y if y.sum() > 0 else -y

    model = Branch().eval()
    report = export_model(model, tmp_path / "m.rebnn", check=Check(IMAGES))
    assert "the model is packed layer by layer: Branch cannot be captured as a graph" in str(report)
    assert torch.equal(load_model(tmp_path / "m.rebnn", model=Branch())(IMAGES[0]), model(IMAGES[0]))


def test_tensors_in_a_tuple_are_a_graphs_inputs_and_a_dict_is_refused_as_such(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = ReBNNConv2d(3, 4, 3)

        def forward(self, both):
            a, b = both.values() if isinstance(both, dict) else both
            return self.conv(a) - b.mean()

    model, given = Two().eval(), (torch.randn(1, 3, 8, 8), torch.randn(1, 5))
    report = export_model(model, tmp_path / "m.rebnn", check=Check([given], exact=True))
    assert "a graph of" in str(report)
    assert torch.equal(load_model(tmp_path / "m.rebnn")(given), model(given))
    named = dict(zip("ab", given, strict=True))
    report = export_model(model, tmp_path / "n.rebnn", check=Check([named], exact=True))
    assert "packed layer by layer: it is called with a dict, and a graph takes tensors in order" in str(report)


def run(command):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=env)


@pytest.mark.slow
def test_tool_writes_a_classifier(classifier, tmp_path):
    path = ROOT / "configs/resnet18_rebnn_cifar10.py"
    model = classifier(stem="cifar", base_channels=64)
    meta = dict(dataset_meta=dict(classes=tuple("abcdefghij")))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / "c.pth")
    command = [
        sys.executable,
        ROOT / "tools/export.py",
        path,
        tmp_path / "c.pth",
        tmp_path / "c.rebnn",
        "--metric",
        "top1=0.5",
    ]
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert "same bits on 2 inputs" in done.stdout and "written to" in done.stdout
    card = load_model(tmp_path / "c.rebnn").card
    assert card.classes == tuple("abcdefghij") and card.metrics == {"top1": 0.5}
    assert card.preprocessing == Preprocessing((125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255), "rgb", (32, 32))
    assert "BalanceHook(magnitude=gradient)" in card.method and card.config["default_scope"] == "mmpretrain"
    command[3] = tmp_path / "none.pth"
    failed = run(command)
    assert failed.returncode == 1 and "export: checkpoint" in failed.stderr and "Traceback" not in failed.stderr


class Wavering(nn.Module):
    """Adds up to ``by`` to every value, when it is told to."""

    def __init__(self, by=0.0):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x + self.by * torch.linspace(-1, 1, x.numel(), dtype=torch.float32).view_as(x)


def wavering_model(by=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        ReBNNConv2d(3, 16, 3, padding=1), Wavering(by), ReBNNConv2d(16, 16, 3, padding=1), Wavering(by)
    ).eval()


def test_rounding_in_real_valued_parts_is_allowed_and_stated(tmp_path):
    model = wavering_model()

    def check(by, **options):
        return Check(IMAGES, load=lambda path: load_model(path, model=wavering_model(by)), **options)

    with torch.no_grad():
        size = float(model(IMAGES[0]).abs().max())
    report = export_model(model, tmp_path / "m.rebnn", check=check(1e-6 * size), parts=[])
    assert [one.input for one in report.differences] == [0, 1]
    text = str(report)
    assert "same bits on" not in text and "1-bit layers give the trained model's bits" in text
    assert "input 0, output 0, by up to" in text and "--exact" in text
    (tmp_path / "m.rebnn").unlink()
    with pytest.raises(ValueError, match="input 0, output 0, by up to .* small enough to be rounding"):
        export_model(model, tmp_path / "m.rebnn", check=check(1e-6 * size, exact=True), parts=[])
    with pytest.raises(ValueError, match="real-valued parts in front of 2 by"):
        export_model(model, tmp_path / "m.rebnn", check=check(0.01 * size), parts=[])
    assert not list(tmp_path.iterdir())
    assert not export_model(model, tmp_path / "m.rebnn", check=check(0.0, exact=True), parts=[]).differences


def test_a_sign_that_rounding_turns_is_no_refusal(tmp_path):
    # every second value in front of the second layer is 0 for the trained model, a hair below for the packed one
    class Zeros(nn.Module):
        def __init__(self, by=0.0):
            super().__init__()
            self.by = by

        def forward(self, x):
            mask = torch.arange(x.shape[-1]) % 2 == 0
            return torch.where(mask, torch.full_like(x, -self.by), x)

    def make(by=0.0):
        torch.manual_seed(0)
        return nn.Sequential(ReBNNConv2d(3, 16, 3), Zeros(by), ReBNNConv2d(16, 4, 3)).eval()

    check = Check(IMAGES[:1], load=lambda path: load_model(path, model=make(1e-7)))
    report = export_model(make(), tmp_path / "m.rebnn", check=check, parts=[])
    assert report.differences[0].relative > 0.01 and "rounding turned a sign" in str(report)


def test_a_wrong_layer_is_found_behind_rounding(tmp_path):
    def load(path):
        packed = load_model(path, model=wavering_model(1e-6))
        packed[2].alpha[0] += 1e-3
        return packed

    with pytest.raises(ValueError, match="the 1-bit part 2, given the same input"):
        export_model(wavering_model(), tmp_path / "m.rebnn", check=Check(IMAGES, load=load), parts=[])


def test_outputs_that_are_chosen_by_value_are_only_stated(tmp_path):
    def forward(model, x):
        y = model(x)
        return dict(maps=y, best=dict(index=y.flatten().sort().indices))

    def check(**options):
        return Check(IMAGES[:1], forward, lambda path: load_model(path, model=wavering_model(1e-5)), **options)

    with pytest.raises(ValueError, match=r"output best\.index"):
        export_model(wavering_model(), tmp_path / "m.rebnn", check=check())
    report = export_model(wavering_model(), tmp_path / "m.rebnn", check=check(chosen=("best",)))
    assert {one.output for one in report.differences} == {"maps", "best.index"}


@pytest.mark.slow
def test_a_whole_graph_is_compared_too(classifier, tmp_path):
    def load(path):
        packed = load_model(path)
        bias = packed.network.tensor_names.index("head.fc.bias")
        packed.network.get_buffer(f"tensor_{bias}").add_(1e-6)
        return packed

    with pytest.raises(ValueError, match="small enough to be rounding: without exact=True"):
        export_model(classifier(), tmp_path / "m.rebnn", check=Check(IMAGES, load=load, exact=True))
    report = export_model(classifier(), tmp_path / "m.rebnn", check=Check(IMAGES, load=load))
    assert len(report.differences) == 2


def test_a_model_that_keeps_what_it_computed_is_exported(tmp_path):
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.kept = ReBNNConv2d(3, 4, 3), {}

        def forward(self, x):
            y = self.conv(x)
            self.kept["last"] = [y, y * 2]
            self.last = y
            return y

    model = Keeps()
    model(IMAGES[0])
    assert model.last.grad_fn is not None
    for float16 in (False, True):
        export_model(model, tmp_path / "m.rebnn", check=Check(IMAGES), float16=float16)
    assert model.last.grad_fn is not None and model.kept["last"][0] is model.last
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "m.rebnn", model=Keeps())(IMAGES[0]), model.eval()(IMAGES[0]))


def test_attention_gives_the_same_bits_though_its_weights_need_no_gradient(tmp_path):
    # torch multiplies in another order with weights that require a gradient
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend, self.fc = nn.MultiheadAttention(256, 8), ReBNNLinear(256, 256)

        def forward(self, x):
            return self.fc(x) + self.attend(x, x, x)[0]

    torch.manual_seed(0)
    x = torch.randn(1, 256, 12).permute(2, 0, 1)
    report = export_model(Attention().eval(), tmp_path / "m.rebnn", check=Check([x], load=None, exact=True))
    assert not report.differences


def test_an_export_says_what_it_does(tmp_path):
    out = io.StringIO()
    with showing_steps("export", out):
        export_plain_classifier(tmp_path / "m.rebnn")
    said = [line.removeprefix("export: ").rpartition(" (")[0] for line in out.getvalue().splitlines()]
    assert said == [
        "copying the trained model",
        "capturing the model as a graph",
        "writing the file",
        "loading the file",
        "comparing with the trained model, input 1 of 1",
    ]
