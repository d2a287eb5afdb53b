"""Direct calls of operators: the same results for the arguments that graphs have."""

import pytest
import torch

from rebnn_mm.deploy.graph.direct import DIRECT

_ARGUMENTS = {
    "add": lambda x: ((x, x), {}),
    "cat": lambda x: (([x, x], 1), {}),
    "div": lambda x: ((x, 3.0), {}),
    "flatten": lambda x: ((x, 1), {}),
    "layer_norm": lambda x: ((x, [4], None, None, 1e-6), {}),
    "matmul": lambda x: ((x, x.transpose(1, 2)), {}),
    "mul": lambda x: ((x, 0.5), {}),
    "permute": lambda x: ((x, [2, 0, 1]), {}),
    "relu": lambda x: ((x,), {}),
    "reshape": lambda x: ((x, [2, -1]), {}),
    "select": lambda x: ((x, 1, -1), {}),
    "softmax": lambda x: ((x, -1), {}),
    "split_with_sizes": lambda x: ((x, [1, 3], -1), {}),
    "transpose": lambda x: ((x, 0, 1), {}),
    "unflatten": lambda x: ((x, -1, [2, -1]), {}),
}


@pytest.mark.parametrize("operator", DIRECT, ids=str)
def test_the_direct_call_gives_the_operators_result(operator):
    args, kwargs = _ARGUMENTS[str(operator).split(".")[1]](torch.randn(2, 3, 4))
    expected, found = operator(*args, **kwargs), DIRECT[operator](*args, **kwargs)
    pairs = zip(expected, found, strict=True) if isinstance(found, (list, tuple)) else [(expected, found)]
    assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in pairs)


def test_alpha_of_a_sum_is_kept():
    x = torch.randn(3)
    assert torch.equal(DIRECT[torch.ops.aten.add.Tensor](x, x, alpha=2), x + 2 * x)
