"""Convolutions, pools, norms and sizes of maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.deploy.targets.onnx.builder import Builder, Value, fixed
from rebnn_mm.errors import UserError


def _pair(values: Any, what: str, dims: int) -> list[int]:
    given = fixed(values, what)
    return given * dims if len(given) == 1 else given


def _conv(dims: int) -> Callable[..., Value]:
    def handler(
        g: Builder, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Any:
        own: dict[str, Any] = dict(strides=_pair(stride, "stride", dims), dilations=_pair(dilation, "dilation", dims))
        if padding == "same":
            own["auto_pad"] = "SAME_UPPER"
            if own["strides"] != [1] * dims:
                raise UserError("padding='same' with a stride")
        elif padding != "valid":
            own["pads"] = _pair(padding, "padding", dims) * 2
        return g.op("Conv", x, weight, bias, group=groups, **own)

    return handler


def _convolution(
    g: Builder, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, *rest: Any
) -> Any:
    transposed, output_padding, groups = rest
    dims = g.value(weight).rank
    assert dims is not None, "a weight is a constant"
    if not transposed:
        return _conv(dims - 2)(g, x, weight, bias, stride, padding, dilation, groups)
    return _transposed(g, x, weight, bias, stride, padding, output_padding, groups, dilation)


def _transposed(
    g: Builder, x: Any, w: Any, bias: Any, stride: Any, padding: Any, more: Any, groups: int, dilation: Any
) -> Value:
    dims = (g.value(w).rank or 0) - 2
    names = dict(strides=stride, pads=padding, output_padding=more, dilations=dilation)
    own: dict[str, Any] = {name: _pair(value, name, dims) for name, value in names.items()}
    own["pads"] = own["pads"] * 2
    return g.op("ConvTranspose", x, w, bias, group=groups, **own)


def channels(g: Builder, x: Value, vector: Tensor) -> Value:
    """One number for each of the channels, which are dimension 1 of ``x``."""
    assert x.rank is not None, "a file states the rank of every tensor"
    return g.constant(vector, (-1, *[1] * (x.rank - 2)))


def _affine(g: Builder, x: Any, scale: Any, offset: Any) -> Value:
    x = g.value(x)
    if not isinstance(scale, Tensor) or not isinstance(offset, Tensor):
        raise UserError("its scale or offset is computed")
    return g.op("Add", g.op("Mul", x, channels(g, x, scale)), channels(g, x, offset))


def _max_pool_affine(g: Builder, x: Any, scale: Any, offset: Any) -> Value:
    own: dict[str, Any] = dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    if isinstance(scale, Tensor) and bool((scale >= 0).all()):  # it keeps the order, and joins the convolution in front
        return g.op("MaxPool", _affine(g, x, scale, offset), **own)
    return _affine(g, g.op("MaxPool", x, **own), scale, offset)


def _batch_norm(
    g: Builder,
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Value:
    if training or not isinstance(mean, Tensor) or not isinstance(var, Tensor):
        raise UserError("it normalises by the statistics of its input")
    weight = torch.ones_like(mean) if weight is None else weight
    bias = torch.zeros_like(mean) if bias is None else bias
    return g.op("BatchNormalization", x, weight, bias, mean, var, epsilon=float(eps))


def _native_batch_norm(
    g: Builder, x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float
) -> Any:
    return (_batch_norm(g, x, weight, bias, mean, var, False, momentum, eps),)


def _window(dims: int, kernel: Any, stride: Any, padding: Any) -> dict[str, Any]:
    size = _pair(kernel, "kernel", dims)
    steps = _pair(stride, "stride", dims) if stride not in ([], ()) else size
    return dict(kernel_shape=size, strides=steps, pads=_pair(padding, "padding", dims) * 2)


def _max_pool(dims: int) -> Callable[..., Value]:
    def handler(g: Builder, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> Value:
        own = _window(dims, kernel, stride, padding)
        return g.op("MaxPool", x, dilations=_pair(dilation, "dilation", dims), ceil_mode=int(ceil), **own)

    return handler


def _avg_pool(dims: int) -> Callable[..., Value]:
    def handler(
        g: Builder, x: Any, kernel: Any, stride: Any, padding: Any, ceil: bool, count_pad: bool, divisor: Any = None
    ) -> Value:
        own = _window(dims, kernel, stride, padding)
        padded = any(own["pads"])
        if divisor is not None or (ceil and padded and count_pad):
            raise UserError(
                "it divides by a number that ONNX's pool has not (divisor_override, or ceil_mode=True with "
                "padding and count_include_pad=True)"
            )
        return g.op("AveragePool", x, ceil_mode=int(ceil), count_include_pad=int(padded and count_pad), **own)

    return handler


def _adaptive_avg_pool(dims: int) -> Callable[..., Value]:
    def handler(g: Builder, x: Any, size: Any) -> Value:
        wanted = list(size) if isinstance(size, (list, tuple)) else [size]
        wanted = wanted * dims if len(wanted) == 1 else wanted
        if wanted == [1] * dims and x.rank == dims + 2:
            return g.op("GlobalAveragePool", x)
        for place, out in zip(range(-dims, 0), wanted, strict=True):
            if out is not None:
                matrix = _averages(g, x, place, out)
                last = place == -1
                pair = (x, g.op("Transpose", matrix, perm=[1, 0])) if last else (matrix, x)
                x = g.op("MatMul", *pair, rank=x.rank)
        return x

    return handler


def _averages(g: Builder, x: Value, dim: int, out: int | Value) -> Value:
    """(out, size) float32 whose product with ``x`` along ``dim`` is the mean of each of torch's windows."""
    size, count = g.size(x, dim), g.vector([out])
    rows = g.op("Unsqueeze", _places(g, count), g.integers([1]), rank=2)
    one = g.scalar(1, torch.int64)
    first = g.op("Div", g.op("Mul", rows, size), count)
    # where the next window would start, rounded up
    behind = g.op("Add", g.op("Mul", g.op("Add", rows, one), size), g.op("Sub", count, one))
    behind = g.op("Div", behind, count)
    places = _places(g, size)
    inside = g.op(
        "And",
        g.op("GreaterOrEqual", places, first, dtype=torch.bool, rank=2),
        g.op("Less", places, behind, dtype=torch.bool, rank=2),
    )
    inside = g.cast(inside, torch.float32)
    return g.op("Div", inside, g.op("ReduceSum", inside, g.integers([1]), keepdims=1))


def _places(g: Builder, count: Value) -> Value:
    """0, 1, 2, ... up to a size."""
    zero, one = (g.scalar(n, torch.int64) for n in (0, 1))
    return g.op("Range", zero, g.op("Squeeze", count, rank=0), one, rank=1)


def _adaptive_max_pool(g: Builder, x: Any, size: Any) -> Any:
    if _pair(size, "output size", 2) != [1, 1]:
        raise UserError("ONNX has only the maximum over a whole map (output size 1)")
    return (g.op("GlobalMaxPool", x),)


def _resize(mode: str, x: Value, g: Builder, sizes: Any, scales: Any, **own: Any) -> Value:
    if scales is not None and all(scale is not None for scale in scales):
        return g.op("Resize", x, None, torch.tensor([1.0, 1.0, *scales]), mode=mode, **own)
    sizes = g.vector([g.size(x, 0), g.size(x, 1), *sizes])
    return g.op("Resize", x, None, None, sizes, mode=mode, **own)


def _nearest(x: Any, g: Builder, sizes: Any, scales: Any) -> Value:
    """By torch's rule: rounding decides where a pixel comes from, and runtimes round otherwise.

    Resize is several times faster. It takes the same pixels for factors of 1, 2, 4 and 8, and for sizes of twice the
    map or one less, as those of another map are in feature pyramids.
    """
    x = g.value(x)
    scales = scales or [None, None]
    of_another_map = sizes is not None and any(isinstance(size, Value) for size in sizes)
    if of_another_map or all(scale in (1, 2, 4, 8) for scale in scales):
        return _resize("nearest", x, g, sizes, scales, **_NEAREST)
    for dim, scale in zip((2, 3), scales, strict=True):
        size = g.size(x, dim)
        count = _scaled(g, size, scale) if sizes is None else g.vector([sizes[dim - 2]])
        x = g.op("Gather", x, _nearest_sources(g, size, count, scale), axis=dim)
    return x


_NEAREST = dict(coordinate_transformation_mode="asymmetric", nearest_mode="floor")


def _scaled(g: Builder, size: Value, scale: float) -> Value:
    """The whole part of ``size * scale``, in double precision as torch computes it."""
    return g.cast(g.op("Mul", g.cast(size, torch.float64), g.scalar(scale, torch.float64), rank=1), torch.int64)


def _nearest_sources(g: Builder, size: Value, count: Value, scale: float | None) -> Value:
    """(count,) places in (size,): ``floor(i * step)`` in float32, ``step`` being size / count or 1 / scale."""
    steps = [g.cast(n, torch.float32) for n in (size, count)]
    step = g.op("Div", *steps) if scale is None else g.scalar(1 / scale)
    sources = g.cast(g.op("Mul", g.cast(_places(g, count), torch.float32), step, rank=1), torch.int64)
    return g.op("Min", sources, g.op("Sub", size, g.integers([1])), rank=1)


def _linear_mode(align_corners: bool) -> dict[str, str]:
    return dict(coordinate_transformation_mode="align_corners" if align_corners else "half_pixel")


def _pad(g: Builder, x: Any, pads: Sequence[Any], mode: str = "constant", value: Any = None) -> Value:
    """``pads`` are (before, after) of the last dimension, then of the one in front of it, and so on."""
    x = g.value(x)
    assert x.rank is not None, "a file states the rank of every tensor"
    kinds = dict(constant="constant", reflect="reflect", replicate="edge", circular="wrap")
    given = len(pads) // 2
    rest = [0] * (x.rank - given)
    before, after = ([*rest, *(pads[2 * i + side] for i in reversed(range(given)))] for side in (0, 1))
    number = g.scalar(value or 0, x.dtype) if mode == "constant" else None
    return g.op("Pad", x, g.vector([*before, *after]), number, mode=kinds[mode])


def _group_norm(g: Builder, x: Any, groups: int, weight: Any, bias: Any, eps: float, *rest: Any) -> Value:
    flat = g.reshape(x, [0, groups, -1])
    y = g.op("InstanceNormalization", flat, torch.ones(groups), torch.zeros(groups), epsilon=float(eps))
    y = g.op("Reshape", y, g.op("Shape", x, dtype=torch.int64, rank=1), rank=x.rank)
    y = y if weight is None else g.op("Mul", y, channels(g, x, weight))
    return y if bias is None else g.op("Add", y, channels(g, x, bias))


def _instance_norm(
    g: Builder,
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    of_input: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Value:
    if not of_input or weight is None or bias is None:
        raise UserError("it has running statistics, or no weight (affine=False)")
    return g.op("InstanceNormalization", x, weight, bias, epsilon=float(eps))


def _shuffle(kind: str) -> Callable[..., Value]:
    own = dict(mode="CRD") if kind == "DepthToSpace" else {}
    return lambda g, x, factor: g.op(kind, x, blocksize=factor, **own)


HANDLERS: dict[str, Callable[..., Any]] = {
    "aten.conv1d": _conv(1),
    "aten.conv2d": _conv(2),
    "aten.convolution": _convolution,
    "aten.conv_transpose2d": _transposed,
    "rebnn.affine": _affine,
    "rebnn.max_pool_affine": _max_pool_affine,
    "aten.batch_norm": _batch_norm,
    "aten._native_batch_norm_legit_no_training": _native_batch_norm,
    "aten.group_norm": _group_norm,
    "aten.instance_norm": _instance_norm,
    "aten.max_pool1d": _max_pool(1),
    "aten.max_pool2d": _max_pool(2),
    "aten.avg_pool1d": _avg_pool(1),
    "aten.avg_pool2d": _avg_pool(2),
    "aten.adaptive_avg_pool1d": _adaptive_avg_pool(1),
    "aten.adaptive_avg_pool2d": _adaptive_avg_pool(2),
    "aten._adaptive_avg_pool2d": _adaptive_avg_pool(2),
    "aten.adaptive_max_pool2d": _adaptive_max_pool,
    "aten.upsample_nearest2d.vec": lambda g, x, size, scales: _nearest(x, g, size, scales),
    "aten.upsample_nearest2d.default": lambda g, x, size, *scales: _nearest(x, g, size, scales),
    "aten.upsample_bilinear2d.vec": lambda g, x, size, corners, scales: _resize(
        "linear", x, g, size, scales, **_linear_mode(corners)
    ),
    "aten.pad": _pad,
    "aten.constant_pad_nd": lambda g, x, pads, value: _pad(g, x, pads, "constant", value),
    "aten.reflection_pad2d": lambda g, x, pads: _pad(g, x, pads, "reflect"),
    "aten.replication_pad2d": lambda g, x, pads: _pad(g, x, pads, "replicate"),
    "aten.pixel_shuffle": _shuffle("DepthToSpace"),
}
