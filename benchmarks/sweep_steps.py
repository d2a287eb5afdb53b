"""Build a stock model from its config, train it for a step, run it, and see what its 1-bit layers are fed."""

from __future__ import annotations

import copy

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from sweep_calls import binary_layers
from sweep_inputs import Inputs, image
from torch import Tensor, nn


def built(cfg: Config) -> nn.Module:
    """The config's model, always with the same random weights."""
    torch.manual_seed(0)
    MessageHub.get_current_instance().update_info("iter", 0)  # a data preprocessor of YOLOX's kind asks for it
    return MODELS.build(copy.deepcopy(cfg.model))


def initialise(model: nn.Module) -> None:
    """The library's random weights; of norms that start at zero (a residual branch's last one) they become one.

    A stock config loads trained weights instead, and may freeze its norms: at zero, no gradient would ever pass.
    """
    model.init_weights()
    with torch.no_grad():
        for module in model.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and weight.dim() == 1 and not weight.any():
                weight.fill_(1)


def train_steps(model: nn.Module, inputs: Inputs, seed: int = 0) -> tuple[float, set[str]]:
    """A step of SGD: the loss, and the parameters with a gradient that is not zero everywhere.

    If a parameter got none there is a second step: what lies before a layer that starts at zero needs one.
    """
    torch.manual_seed(seed)
    model.train()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(parameters.values(), lr=1e-3)
    trained: set[str] = set()
    for _ in range(2):
        optimizer.zero_grad()
        data = model.data_preprocessor(copy.deepcopy(inputs.train), True)
        loss, _ = model.parse_losses(model(**data, mode="loss"))
        loss.backward()
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {float(loss)}")
        trained |= {name for name, p in parameters.items() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
        if len(trained) == len(parameters):
            break
    optimizer.zero_grad()
    return float(loss.detach()), trained


def run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """A forward in eval mode on one image of noise."""
    return inputs.forward(model, image(inputs.size, inputs.channels))


class OneSided:
    """Names of 1-bit layers whose input has one sign nearly everywhere: they multiply with a constant.

    Watched is what enters the sign function: the layer's ``input_norm`` if it has one, else its input.
    """

    def __init__(self, model: nn.Module) -> None:
        self._shares: dict[str, list[float]] = {}
        self._handles = []
        for name, layer in binary_layers(model).items():
            norm = getattr(layer, "input_norm", None)
            if norm is not None:
                hook = norm.register_forward_hook(lambda _, args, out, name=name: self._see(name, out))
            else:
                hook = layer.register_forward_pre_hook(lambda _, args, name=name: self._see(name, args[0]))
            self._handles.append(hook)

    def _see(self, name: str, x: Tensor) -> None:
        self._shares.setdefault(name, []).append(float((x >= 0).float().mean()))

    def names(self, limit: float = 0.999) -> list[str]:
        """Layers for which that held in every call."""
        return [name for name, s in self._shares.items() if min(s) > limit or max(s) < 1 - limit]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
