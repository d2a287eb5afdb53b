"""Attention on bits against its definition, and what padding may not do."""

import torch
from torch import nn

from rebnn_mm.bert import BinarySelfAttention
from rebnn_mm.functional import sign


def attention(heads=2, width=8):
    torch.manual_seed(0)
    return BinarySelfAttention(*(nn.Linear(width, width) for _ in range(3)), heads)


def additive(mask):
    return (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min


def test_definition_by_loops():
    layer, x = attention(), torch.randn(2, 5, 8)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    context, weights = layer(x, additive(mask))
    q, k, v = (sign(part(x)).view(2, 5, 2, 4) for part in (layer.query, layer.key, layer.value))
    for n in range(2):
        for h in range(2):
            for i in range(5):
                expected = torch.zeros(4)
                for j in range(5):
                    on = bool(q[n, i, h] @ k[n, j, h] >= 0 and mask[n, j])
                    assert weights[n, h, i, j] == on
                    expected += on * v[n, j, h]
                assert torch.equal(context[n, i, 4 * h : 4 * h + 4], expected)


def test_values_are_bits_and_gradients_reach_all_three_layers():
    layer = attention()
    x = torch.randn(3, 6, 8, requires_grad=True)
    context, weights = layer(x)
    assert set(weights.unique().tolist()) == {0.0, 1.0}
    (context * torch.randn_like(context)).sum().backward()
    for part in (layer.query, layer.key, layer.value):
        assert part.weight.grad.abs().sum() > 0
    assert x.grad.isfinite().all()


def test_what_stands_in_padding_changes_no_bit():
    layer = attention()
    x = torch.randn(2, 6, 8)
    mask = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    other = torch.where(mask[..., None] == 1, x, torch.randn_like(x) * 100)
    a, b = layer(x, additive(mask))[0], layer(other, additive(mask))[0]
    assert torch.equal(a[1, :3], b[1, :3]) and torch.equal(a[0], b[0])
    short = layer(x[1:, :3])[0]  # products of signs are integers: exact in any order of summing
    assert torch.equal(a[1, :3], short[0])
