"""The norm in front of a sign: it puts the inputs around zero, where a sign carries information.

Neither class is one of torch's, on purpose. Initialisers write into ``weight`` and ``bias`` of every ``nn.BatchNorm2d``
and ``nn.LayerNorm`` they find, which these do not have; ``norm_eval=True`` puts every batch norm into evaluation, since
it has statistics of a pretrained network, which these have not; and ``convert_sync_batchnorm`` would take the second
axis of (N, L, C) for the channels. So all of them pass these by. In a distributed run each process normalises by its
own part of the batch, and the first one's running statistics are saved, as with any batch norm that is not
synchronised.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from rebnn_mm.tracing import one_operation


class InputNorm(_NormBase):
    """Batch norm without parameters over all axes but the channels': (N, C, H, W), (C, H, W), or (..., C).

    In evaluation it is a factor and an offset of each channel, which the packed layers fold away.

    A training batch with fewer than two values a channel (one image in a head of linear layers, no regions in a
    detector) has no standard deviation: it is normalised by the running statistics, and does not change them.

    Args:
        num_features: C.
        last_axis: The channels are the last axis, (..., C), as for a linear layer; else the third from behind.
        kwargs: ``eps``, ``momentum``, ``device`` and ``dtype`` as for ``nn.BatchNorm2d``.
    """

    def __init__(self, num_features: int, last_axis: bool = False, **kwargs: Any) -> None:
        super().__init__(num_features, affine=False, **kwargs)
        self.last_axis = last_axis

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``; the shape stays."""
        statistics = self.running_mean, self.running_var, self.num_batches_tracked
        return _normalise(x, *statistics, self.last_axis, self.training, self.momentum, self.eps)

    def extra_repr(self) -> str:
        """Size and axis."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, last_axis={self.last_axis}"


class InputLayerNorm(nn.Module):
    """Layer norm without parameters over the last axis, (..., C): each vector by itself, in training and evaluation.

    Args:
        num_features: C.
        eps: Added to the variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.normalized_shape = (num_features,)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``; the shape stays."""
        return nn.functional.layer_norm(x, self.normalized_shape, eps=self.eps)

    def extra_repr(self) -> str:
        """Size."""
        return f"{self.normalized_shape}, eps={self.eps}"


@one_operation
def _normalise(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    batches: Tensor | None,
    last_axis: bool,
    training: bool,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """Batch norm of (..., C), or of (N, C, H, W) and (C, H, W), which updates the running statistics in training."""
    if last_axis:
        flat = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    else:
        flat = x[None] if x.dim() == 3 else x
    training = training and x.numel() >= 2 * mean.numel()
    if training and batches is not None:
        batches.add_(1)
        if momentum is None:  # the average of all batches
            momentum = 1.0 / float(batches)
    y = nn.functional.batch_norm(flat, mean, variance, training=training, momentum=momentum or 0.0, eps=eps)
    return y if y.dim() == x.dim() else y.view(x.shape)
