"""The few members that hooks, counters and export may rely on, whatever the method."""

from __future__ import annotations

from torch import Tensor, nn


class BinaryLayer(nn.Module):
    """A convolution or linear layer that is 1-bit in its weights, its input, or both.

    Attributes:
        weight: Latent real-valued weight, (C_out, C_in/groups, K, K) or (C_out, C_in).
        binarizes_weight: Whether the forward uses ``binary_weight()``.
        binarizes_input: Whether the forward uses the sign of its input.
        clips_weight: Whether a latent weight beyond 1 in size gets no gradient; methods that standardise have no such.
    """

    weight: nn.Parameter
    binarizes_weight: bool = True
    binarizes_input: bool = True
    clips_weight: bool = True

    def binary_weight(self) -> Tensor:
        """Binary weight in {-1, +1}, shaped as ``weight``, without gradient."""
        raise TypeError(f"{type(self).__name__} does not define binary_weight()")

    def scale(self) -> Tensor | None:
        """What the result of the 1-bit operation is multiplied with, (C_out, 1, ...), without gradient; None is 1."""
        raise TypeError(f"{type(self).__name__} does not define scale()")

    def offset(self) -> Tensor | None:
        """What is added behind the scale, (C_out,), without gradient: the bias and what else there is; None is 0."""
        raise TypeError(f"{type(self).__name__} does not define offset()")


def binary_layers(model: nn.Module) -> dict[str, BinaryLayer]:
    """Layers of ``model`` with 1-bit weights, by their dotted names, in the model's order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BinaryLayer) and module.binarizes_weight
    }


def is_training_only(module: nn.Module, name: str) -> bool:
    """Whether no forward in evaluation reads the tensor ``name`` of ``module``: inference does without it.

    These are the balance of a 1-bit layer and a norm's count of batches. Another module's ``gamma`` is its own matter
    (ConvNeXt's is a scale of each channel).
    """
    return name == "num_batches_tracked" or (name == "gamma" and isinstance(module, BinaryLayer))
