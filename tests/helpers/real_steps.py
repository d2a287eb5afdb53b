"""The steps behind the products of a real-valued layer, as its kernels compute them."""

from rebnn_mm.deploy.operation.reference import fma


def with_steps(y, norm, clamp):
    """``clamp(fma(y, *norm))``; None leaves a step out."""
    if norm is not None:
        y = fma(y, *(part.view(-1, 1, 1) for part in norm))
    return y if clamp is None else y.clamp(*clamp)
