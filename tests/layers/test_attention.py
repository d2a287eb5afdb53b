"""1-bit attention: with real-valued projections it is torch's; its checkpoints load; its scores can be bits."""

import pytest
import torch
from torch import nn

from rebnn_mm.errors import UserError
from rebnn_mm.layers.attention import Attend, BinaryMultiheadAttention, binary_twin

REAL = dict(type="Linear", input_norm=False)


class Plain(nn.Linear):
    """A real-valued projection under the options of a 1-bit one."""

    def __init__(self, *args, input_norm=False, **kwargs):
        super().__init__(*args, **kwargs)


def pair(**options):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(8, 2, **options).eval()
    if theirs.in_proj_bias is not None:
        nn.init.normal_(theirs.in_proj_bias)
    sizes = {key: options.get(key) for key in ("bias", "kdim", "vdim", "batch_first") if key in options}
    ours = BinaryMultiheadAttention(8, 2, linear=dict(type=Plain), **sizes).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize(
    "options", [{}, dict(batch_first=True), dict(bias=False), dict(kdim=6, vdim=4), dict(kdim=6, batch_first=True)]
)
@pytest.mark.parametrize("average", [True, False])
def test_real_projections_give_torchs_results(options, average):
    theirs, ours = pair(**options)
    n, length, source = 3, 4, 5
    sizes = (8, options.get("kdim", 8), options.get("vdim", 8))
    inputs = [torch.randn(n, count, c) for count, c in zip((length, source, source), sizes, strict=True)]
    if not options.get("batch_first"):
        inputs = [x.transpose(0, 1) for x in inputs]
    expected, found = (m(*inputs, average_attn_weights=average) for m in (theirs, ours))
    torch.testing.assert_close(found, expected)
    assert ours(*inputs, need_weights=False)[1] is None


@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("dims", [2, 3])
def test_masks_are_torchs(kind, dims):
    theirs, ours = pair(batch_first=True)
    x = torch.randn(3, 4, 8)
    mask = torch.ones(4, 4).triu(1).bool()
    padding = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]]).bool()
    if kind == "float":
        mask, padding = (m.float() * -3 for m in (mask, padding))
    if dims == 3:
        mask = mask.expand(6, 4, 4)
    for options in (
        dict(attn_mask=mask),
        dict(key_padding_mask=padding),
        dict(attn_mask=mask, key_padding_mask=padding),
    ):
        torch.testing.assert_close(ours(x, x, x, **options), theirs(x, x, x, **options))


def test_without_a_batch():
    theirs, ours = pair()
    x, y = torch.randn(4, 8), torch.randn(5, 8)
    torch.testing.assert_close(ours(x, y, y), theirs(x, y, y))


def test_a_causal_hint_needs_its_mask():
    _, ours = pair()
    with pytest.raises(UserError, match="only a hint"):
        ours(*[torch.randn(4, 1, 8)] * 3, is_causal=True)


@pytest.mark.parametrize("options", [{}, dict(kdim=6, vdim=4), dict(bias=False)])
def test_a_twin_holds_the_weights_and_saves_under_its_own_names(options):
    theirs = nn.MultiheadAttention(8, 2, dropout=0.1, **options).double().eval()
    theirs.requires_grad_(False)
    twin = binary_twin(theirs, "real", dict(type="ReBNNLinear", input_norm=True))
    assert not twin.training and twin.dropout == 0.1 and not any(p.requires_grad for p in twin.parameters())
    assert twin.q_proj.weight.dtype == torch.float64
    for name, weight in zip("qkv", theirs.in_proj_weight.chunk(3) if not options.get("kdim") else [], strict=False):
        assert torch.equal(twin.get_submodule(f"{name}_proj").weight, weight)
    assert not any("in_proj" in name for name in twin.state_dict())
    again = binary_twin(theirs, "real", dict(type="ReBNNLinear", input_norm=True))
    again.load_state_dict(twin.state_dict())
    torch.testing.assert_close(twin.k_proj.alpha.flatten(), twin.k_proj.weight.abs().mean(1))


def test_a_bias_of_the_output_alone_is_kept():
    attention = nn.MultiheadAttention(16, 2, bias=False)
    attention.out_proj.bias = nn.Parameter(torch.randn(16))
    twin = binary_twin(attention, "real", dict(type="ReBNNLinear"))
    assert torch.equal(twin.out_proj.bias, attention.out_proj.bias) and twin.q_proj.bias is None


def test_a_checkpoint_of_torchs_loads_deep_in_a_model_and_alpha_follows():
    def model():
        return nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 2))

    real, ours = model(), model()
    ours[0].self_attn = binary_twin(ours[0].self_attn, "real", dict(type="ReBNNLinear", input_norm=False))
    missing, unexpected = ours.load_state_dict(real.state_dict(), strict=False)
    assert not unexpected and not [name for name in missing if not name.endswith(("alpha", "gamma"))]
    expected = real[0].self_attn.in_proj_weight.chunk(3)[2]
    assert torch.equal(ours[0].self_attn.v_proj.weight, expected)
    ours(torch.randn(2, 3, 8))
    torch.testing.assert_close(ours[0].self_attn.v_proj.alpha.flatten(), expected.abs().mean(1))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")  # torch asks, is answered no, and warns
def test_encoder_layers_take_no_fused_path_around_it():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    layer.self_attn = binary_twin(layer.self_attn, "real", dict(type="ReBNNLinear", input_norm=False))
    model, x = nn.TransformerEncoder(layer, 2), torch.randn(2, 3, 8)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), model.train()(x))


@pytest.mark.parametrize("scores", ["real", "binary"])
def test_gradients_reach_all_projections(scores):
    layer = BinaryMultiheadAttention(8, 2, batch_first=True, scores=scores)
    x = torch.randn(4, 6, 8, requires_grad=True)
    y, weights = layer(x, x, x)
    (y * torch.randn_like(y)).sum().backward()
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        assert layer.get_submodule(name).weight.grad.abs().sum() > 0, name
    if scores == "binary":
        assert set((weights * 2).unique().tolist()) <= {0.0, 1.0, 2.0}  # the mean over two heads of bits


def test_wrong_options():
    with pytest.raises(UserError, match="scores='bits' is not one of"):
        Attend(2, scores="bits")
    with pytest.raises(UserError, match="no multiple of num_heads=3"):
        BinaryMultiheadAttention(8, 3)


def test_alpha_of_a_twin_follows_what_initialises_it_afterwards():
    """mmdet's DETR draws every parameter of several axes anew in ``init_weights()``."""
    twin = binary_twin(nn.MultiheadAttention(8, 2), "real", dict(type="ReBNNLinear"))
    for parameter in twin.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=3)
    x = torch.randn(5, 2, 8)
    twin.train()(x, x, x)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        layer = twin.get_submodule(name)
        torch.testing.assert_close(layer.alpha, layer.weight.abs().mean(1))
