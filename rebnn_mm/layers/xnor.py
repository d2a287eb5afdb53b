"""XNOR-Net's layers (Rastegari et al., ECCV 2016), with the weight's scale and without the input's.

weight    ``b = sign(w)``, straight-through where ``|w| <= 1``
scale     ``alpha = mean |w|`` of each output channel (section 3.1)
gradient  alpha is a function of w and differentiated as one:
          ``dL/dw_i = alpha * dL/dw_hat_i * 1[|w_i| <= 1] + sign(w_i)/n * sum_j dL/dw_hat_j * sign(w_j)``.
          The paper's section 3.1 prints the second term for ``j = i`` only, ``1/n * dL/dw_hat_i``.

The paper also multiplies each pixel of the result with K, the mean of ``|a|`` over channels and window
(section 3.2). That needs the real-valued input beside its sign at run-time; the authors' released network
goes without it, and so does this layer. Their code also removes each weight's mean over the input channels and
clamps latent weights to [-1, 1] before every update; here neither is done, so that every method runs
with the same optimizer and hooks.
"""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor, nn

from rebnn_mm.functional import scale_init
from rebnn_mm.layers.base import BinaryBase, BinaryConv2d, BinaryLinear


class _XNOR(BinaryBase):
    default_estimator = "ClippedSTE"

    def _scale(self) -> Tensor:
        return scale_init(self.weight)


@MODELS.register_module()
class XNORConv2d(_XNOR, BinaryConv2d, nn.Conv2d):
    """XNOR-Net's 1-bit ``nn.Conv2d``; options as :class:`BinaryConv2d`, estimator ``ClippedSTE``."""


@MODELS.register_module()
class XNORLinear(_XNOR, BinaryLinear, nn.Linear):
    """XNOR-Net's 1-bit ``nn.Linear``; options as :class:`BinaryLinear`."""
