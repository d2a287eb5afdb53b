"""A network that is only asked, never trained or saved."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class FrozenTeacher:
    """Hold a teacher beside a student without making it part of the student.

    It is no ``nn.Module``: as an attribute of one it stays out of ``parameters()``, ``state_dict()``, ``modules()``,
    ``train()``, DDP and the optimizer, so that checkpoints and operation counts are the student's alone. The price is
    that ``student.to(device)`` does not reach it; it follows the device of what it is asked.

    Args:
        module: The network; it is put in eval mode and its parameters need no gradient from here on.
        method: Name of the method to call.
    """

    def __init__(self, module: nn.Module, method: str = "forward") -> None:
        self.module = module.eval().requires_grad_(False)
        self.method = method

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Call the method without gradients, on the device of ``x``; autocast around it applies."""
        if next(self.module.parameters()).device != x.device:
            self.module.to(x.device)
        return getattr(self.module, self.method)(x, *args, **kwargs)
