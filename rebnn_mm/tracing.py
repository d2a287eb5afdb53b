"""Keep a function whole where ``torch.fx`` traces through Python code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function


def one_operation(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make ``function``, whose first argument is a tensor, one operation for ``torch.fx``.

    ``torch.fx`` would record what the forward of an ``autograd.Function`` does and lose its backward: the sign of a
    traced model would have no gradient, in silence. Nor can it follow code that asks for the number of dimensions.
    """

    @functools.wraps(function)
    def call(x: Tensor, *args: Any) -> Tensor:
        if has_torch_function((x,)):
            return handle_torch_function(call, (x,), x, *args)
        return function(x, *args)

    return call
