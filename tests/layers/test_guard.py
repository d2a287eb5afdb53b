"""What others do to a plain convolution stays right on a 1-bit one, or is refused with a sentence."""

import copy

import pytest
import torch
import torch.fx.experimental.optimization as fx_optimization
from mmengine.registry import MODELS
from torch import nn
from torch.nn.utils import fusion, parametrizations, parametrize, prune, spectral_norm, weight_norm

from rebnn_mm import layers
from rebnn_mm.errors import UserError

LAYERS = [name for name in layers.__all__ if name in MODELS and name.endswith(("Conv2d", "Linear"))]


def make(name, **options):
    return MODELS.get(name)(*((4, 4, 3) if name.endswith("Conv2d") else (4, 4)), **options)


def input_of(layer):
    return torch.randn(2, 4, 8, 8) if isinstance(layer, nn.Conv2d) else torch.randn(8, 4)


def with_norm(name, fresh, **options):
    layer = make(name, **options)
    norm = nn.BatchNorm2d(4) if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d(4)
    if not fresh:
        norm.weight.data = torch.tensor([1.5, -0.5, 0.0, 2.0])
        norm.running_var.copy_(torch.tensor([0.3, 4.0, 1.0, 2.0]))
    return nn.Sequential(layer, norm).eval()


def fuse_mmcv(model):
    return pytest.importorskip("mmcv.cnn").fuse_conv_bn(model)


def fuse_torch(model):
    fuse = fusion.fuse_conv_bn_eval if isinstance(model[0], nn.Conv2d) else fusion.fuse_linear_bn_eval
    return nn.Sequential(fuse(*model))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("fuse", [fuse_mmcv, fuse_torch])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fresh", [True, False])
def test_folding_a_norm_into_the_latent_weight_is_refused(name, fuse, bias, fresh):
    if fuse is fuse_mmcv and name.endswith("Linear"):
        pytest.skip("mmcv fuses convolutions")
    model = with_norm(name, fresh, bias=bias)
    x = input_of(model[0])
    before = model(x)
    with pytest.raises(UserError, match=r"rebnn_mm\.deploy\.export_model"):
        fuse(model)
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_folding_is_seen_in_every_precision(dtype):
    model = with_norm("ReBNNConv2d", fresh=False).to(dtype)
    with pytest.raises(UserError, match="times a factor"):
        fuse_torch(model)


def test_a_layer_with_real_valued_weights_can_be_folded():
    for fuse in (fuse_mmcv, fuse_torch):
        model = with_norm("ReBNNConv2d", fresh=False, activation_only=True)
        x = input_of(model[0])
        before = model(x)
        torch.testing.assert_close(fuse(model)(x), before)


@pytest.mark.parametrize("name", ["ReBNNConv2d", "XNORConv2d"])
def test_folding_by_torch_fx_leaves_the_norm(name):
    model = with_norm(name, fresh=False)
    x = input_of(model[0])
    assert torch.equal(fx_optimization.fuse(model)(x), model(x))


@pytest.mark.parametrize("option", ["efficient_conv_bn_eval"])
def test_the_bare_convolution_is_refused(option):
    cnn = pytest.importorskip("mmcv.cnn")
    cfg = dict(conv_cfg=dict(type="ReBNNConv2d"), norm_cfg=dict(type="BN"))
    module = cnn.ConvModule(4, 4, 3, **cfg, efficient_conv_bn_eval=True).eval()
    with pytest.raises(UserError, match=option):
        module(torch.randn(1, 4, 8, 8))
    cnn.ConvModule(4, 4, 3, **cfg).eval()(torch.randn(1, 4, 8, 8))


class Clip(nn.Module):
    def forward(self, weight):
        return weight.clamp(-1, 1)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "change",
    [
        weight_norm,
        spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        lambda layer: parametrize.register_parametrization(layer, "weight", Clip()),
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        lambda layer: prune.random_structured(layer, "weight", 0.5, dim=0),
    ],
)
def test_a_weight_computed_from_others_is_refused(name, change):
    with pytest.raises(UserError, match="computes its weight from other tensors"):
        change(make(name))
    change(make(name, activation_only=True))  # its weight is real-valued


def test_a_method_may_have_parameters_that_begin_with_weight():
    class Mine(layers.BinaryConv2d, nn.Conv2d):
        def _init_method(self):
            self.weight_scale = nn.Parameter(torch.ones(self.out_channels))

    assert Mine(4, 4, 3).weight_scale.shape == (4,)


def tie(layer, other):
    layer.weight = other.weight
    assert layer.weight is other.weight


def assign(layer, other):
    layer.load_state_dict({name: value.clone() for name, value in other.state_dict().items()}, assign=True)


def assign_the_same(layer, other):
    layer.load_state_dict({name: value.clone() for name, value in layer.state_dict().items()}, assign=True)


def assign_rounded(layer, other):
    layer.load_state_dict({k: v.half().float() for k, v in layer.state_dict().items()}, assign=True)


def swap(layer, other):
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        layer.double().float().load_state_dict(other.state_dict())
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def call_with_others(layer, other):
    x = input_of(layer)
    values = {name: 2 * value.detach() for name, value in other.named_parameters()}
    assert torch.isfinite(torch.func.functional_call(layer, values, x)).all()


def zero(layer, other):
    layer.weight = nn.Parameter(torch.zeros_like(layer.weight))


def new_bias(layer, other):
    layer.bias = nn.Parameter(torch.ones(4))


def no_bias(layer, other):
    layer.bias = None


def to_empty(layer, other):
    layer.to("meta").to_empty(device="cpu").load_state_dict(other.state_dict())


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "change", [tie, assign, assign_the_same, assign_rounded, swap, call_with_others, zero, new_bias, no_bias, to_empty]
)
def test_what_leaves_the_layer_right_passes(name, change):
    layer, other = make(name), make(name)
    change(layer, other)
    copied = copy.deepcopy(layer)
    x = input_of(layer)
    assert torch.equal(copied(x), layer(x))


def encoder_layer(kind):
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    layer.linear1, layer.linear2 = MODELS.get(kind)(16, 32), MODELS.get(kind)(32, 16)
    return layer


@pytest.mark.parametrize("kind", [name for name in LAYERS if name.endswith("Linear")])
@pytest.mark.parametrize("wrap", [lambda layer: layer, copy.deepcopy, lambda layer: nn.TransformerEncoder(layer, 2)])
def test_layers_placed_by_hand_are_called_in_evaluation(kind, wrap):
    """torch's fused kernel would compute with the latent weights."""
    torch.manual_seed(0)
    model, x = wrap(encoder_layer(kind)), torch.randn(2, 5, 16)
    called = []
    with torch.no_grad():
        evaluated = model.eval()(x)
        torch.testing.assert_close(evaluated, model.train()(x), rtol=1e-5, atol=1e-5)
        for layer in model.modules():  # the fused kernel steps aside for these hooks too: they come last
            if isinstance(layer, layers.BinaryLayer):
                layer.register_forward_hook(lambda module, args, output: called.append(module))
        torch.testing.assert_close(model.eval()(x), evaluated)
    assert len(called) == len(set(called)) == sum(isinstance(m, layers.BinaryLayer) for m in model.modules())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_ragged_batch_is_refused():
    model = nn.TransformerEncoder(encoder_layer("ReBNNLinear"), 2).eval()
    x, mask = torch.randn(2, 5, 16), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        with pytest.raises(UserError, match="enable_nested_tensor=False"):
            model(x, src_key_padding_mask=mask)
        nn.TransformerEncoder(model.layers[0], 2, enable_nested_tensor=False).eval()(x, src_key_padding_mask=mask)


def test_packed_layers_are_called_in_evaluation(tmp_path):
    from rebnn_mm.deploy import Check, export_model, load_model

    torch.manual_seed(0)
    model = nn.Sequential(encoder_layer("ReBNNLinear"), nn.Linear(16, 3)).eval()
    x = torch.randn(2, 5, 16)
    export_model(model, tmp_path / "m.rebnn", check=Check([x], exact=True))
    with torch.no_grad():
        for packed in (load_model(tmp_path / "m.rebnn"), load_model(tmp_path / "m.rebnn", model=copy.deepcopy(model))):
            torch.testing.assert_close(packed(x), model(x), rtol=1e-4, atol=1e-4)
