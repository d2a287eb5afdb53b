"""Which operators a file's graph may call."""

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from rebnn_mm.deploy.graph.capture import capture
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.operators import LEFT_OUT, OPERATORS, name_of
from rebnn_mm.deploy.graph.passes.simplify import simplify
from rebnn_mm.deploy.graph.record import encode
from rebnn_mm.errors import UserError


def core_operators():
    """Base names of the core ATen operators that change nothing."""
    registered = (name.split("::") for name in torch._C._dispatch_get_all_op_names())
    names = {name.split(".")[0] for namespace, name in registered if namespace == "aten"}
    found = {}
    for packet in (getattr(torch.ops.aten, name) for name in sorted(names) if hasattr(torch.ops.aten, name)):
        overloads = [getattr(packet, name) for name in packet.overloads()]
        core = [op for op in overloads if torch.Tag.core in op.tags and not op._schema.is_mutable]
        found.update({op._schema.name.removeprefix("aten::"): op for op in core})
    return found


def test_every_core_operator_is_called_or_left_out_for_a_reason():
    called = {name.split(".")[1] for name in OPERATORS if name.startswith("aten.")}
    core = core_operators()
    assert len(core) > 150
    assert not set(core) - called - set(LEFT_OUT)
    assert not called & set(LEFT_OUT)


def test_no_operator_takes_a_generator_or_names_a_gradient():
    schemas = [op._schema for op in OPERATORS.values() if hasattr(op, "_schema")]
    assert not [s.name for s in schemas if any("Generator" in str(a.type) for a in s.arguments)]
    assert not [s.name for s in schemas if s.name.endswith("_backward")]


@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        (torch.ops.aten.randn.default, "random numbers"),
        (torch.ops.aten.as_strided.default, "lie in memory"),
        (torch.ops.aten.convolution_backward.default, "computes gradients"),
        (torch.ops.aten._local_scalar_dense.default, "a size of a tensor's value"),
        (torch.ops.aten.bernoulli.default, "may call; pack it"),
    ],
)
def test_what_is_left_out_says_why(operator, reason):
    with pytest.raises(UserError, match=reason):
        name_of(operator)


def test_what_torch_export_does_with_sizes_is_known():
    verifier = pytest.importorskip("torch._export.verifier")
    for function in (*verifier.Verifier().allowed_builtin_ops(), torch.sym_int, torch.sym_ite, torch.sym_not):
        assert name_of(function).startswith("size.")


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def mixed(x):
    high = x.double().mT.cumprod(-1)
    return torch.logsumexp(high, 1).float(), x.half().float(), x.bfloat16() + 1, (x > 0).to(torch.uint8)


def shifted(table):
    """A constant table as window attention makes it, with slices that have no end."""
    table[-2:, slice(-1, None)] = 1
    return table.cumsum(0)


FUNCTIONS = dict(
    matrix_transpose=lambda x: x.mT @ x,
    bits=lambda x: (x > 0) & (x < 1) | (x < -2),
    xor=lambda x: (x > 0) ^ (x > 1),
    norm=lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-6),
    norm_of=lambda x: torch.linalg.norm(x, dim=(1, 2)),
    cosine=lambda x: functional.cosine_similarity(x[:, :1], x, dim=-1),
    detach=lambda x: x.detach().nan_to_num(0.0).addcmul(x, x, value=0.5),
    constant=lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0]),
    sorting=lambda x: x.sort(dim=-1).values.lerp(x, 0.3) + x.argsort(dim=-1),
    scatter=lambda x: torch.zeros_like(x).scatter_add(1, x.argmax(1, keepdim=True), x.prod(1, keepdim=True)),
    index_put=lambda x: torch.zeros_like(x).index_put((torch.tensor([0]),), x[:1]),
    spectrum=lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 2, s=x.shape[-2:]),
    complex=lambda x: torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) ** 2),
    sampling=lambda x: functional.grid_sample(x[:, None], x[:, :, None, :2], align_corners=False),
    patches=lambda x: functional.fold(functional.unfold(x[:, None], 2, padding=1), x.shape[-2:], 2, padding=1),
    volumes=lambda x: functional.avg_pool3d(x[:, None, None], (1, 3, 2)),
    one_hot=lambda x: functional.one_hot((x > 0).long(), 2),
    found=lambda x: (x > 100).nonzero(),
    types=mixed,
    mask=lambda x: x + shifted(torch.zeros(3, 4)),
    sizes=lambda x: x.reshape(x.shape[0], math.ceil(x.shape[1] * x.shape[2] / 2), -1),
    attention=lambda x: functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0],
)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_of_an_ordinary_function_is_stored_and_gives_its_bits(name):
    module = Function(FUNCTIONS[name])
    traced = capture(module, [torch.randn(2, 3, 4)])
    simplify(traced)
    network = GraphNetwork(json.loads(json.dumps(encode(traced))), traced.tensors)
    for batch in (2, 5):
        x = torch.randn(batch, 3, 4)
        expected, found = module(x), network(x)
        pairs = zip(expected, found, strict=True) if isinstance(expected, tuple) else [(expected, found)]
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def test_torchs_encoder_layer_is_stored():
    module = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval().requires_grad_(False)
    traced = capture(module, [torch.randn(2, 3, 4)])
    simplify(traced)
    network = GraphNetwork(json.loads(json.dumps(encode(traced))), traced.tensors)
    x = torch.randn(3, 3, 4)
    torch.testing.assert_close(network(x), module(x))
