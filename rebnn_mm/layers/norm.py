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
        return _normalise(x, self)

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
def _normalise(x: Tensor, norm: InputNorm) -> Tensor:
    if norm.last_axis:
        flat = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    else:
        flat = x[None] if x.dim() == 3 else x
    y = _batch_norm(flat, norm)
    return y if y.dim() == x.dim() else y.view(x.shape)


def _batch_norm(x: Tensor, norm: InputNorm) -> Tensor:
    """(N, C, ...) by the batch's statistics in training, by the running ones in evaluation."""
    train = norm.training and x.numel() >= 2 * norm.num_features
    momentum = norm.momentum
    if train and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:  # the average of all batches
            momentum = 1.0 / float(norm.num_batches_tracked)
    return nn.functional.batch_norm(
        x, norm.running_mean, norm.running_var, training=train, momentum=momentum or 0.0, eps=norm.eps
    )
