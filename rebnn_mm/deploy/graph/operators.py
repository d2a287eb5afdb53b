"""The operators that a file's graph may call, by name: functions of tensors and sizes, and nothing else."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from rebnn_mm.deploy.graph import functions
from rebnn_mm.deploy.graph.unit import CONV, CONV_BOTH, LINEAR, LINEAR_BOTH
from rebnn_mm.errors import UserError

# ATen operators that read their arguments and return new tensors or views, by base name; every overload is taken that
# changes nothing. None reads a file, draws a random number or prints.
_ATEN = """
abs acos add addmm all amax amin any arange argmax argmin atan avg_pool1d avg_pool2d adaptive_avg_pool1d
adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d baddbmm batch_norm bitwise_and bitwise_not bitwise_or
bmm cat ceil chunk clamp clamp_max clamp_min clone constant_pad_nd contiguous copy conv1d conv2d conv_transpose2d
convolution cos cumsum div dot einsum elu embedding empty_like eq erf exp expand expand_as expm1 fill flatten flip floor
floor_divide full full_like gather ge gelu glu group_norm gt hardsigmoid hardswish hardtanh im2col index index_select
instance_norm isinf isnan layer_norm le leaky_relu linear linspace log log1p log2 log_softmax logical_and logical_not
logical_or lt masked_fill masked_select matmul max max_pool1d max_pool2d maximum mean meshgrid min minimum mish mm
movedim mul narrow native_group_norm native_layer_norm ne neg new_empty new_full new_ones new_zeros norm
_native_batch_norm_legit_no_training ones ones_like pad permute pixel_shuffle pixel_unshuffle pow prelu _prelu_kernel
reciprocal reflection_pad2d relu relu6 remainder repeat repeat_interleave replication_pad2d reshape rms_norm roll round
rsqrt rsub scalar_tensor scaled_dot_product_attention select select_scatter selu sigmoid sign silu sin slice
slice_scatter softmax _softmax softplus split split_with_sizes sqrt square squeeze stack std sub sum sym_size t tanh
tensor_split tile to _to_copy topk transpose tril triu type_as unbind unflatten unfold unsqueeze upsample_bicubic2d
upsample_bilinear2d upsample_nearest2d _upsample_nearest_exact2d var view view_as where zeros zeros_like
""".split()
_SIZES = dict(
    add=operator.add,
    sub=operator.sub,
    mul=operator.mul,
    floordiv=operator.floordiv,
    mod=operator.mod,
    neg=operator.neg,
    eq=operator.eq,
    ne=operator.ne,
    lt=operator.lt,
    le=operator.le,
    gt=operator.gt,
    ge=operator.ge,
    truediv=operator.truediv,
    sym_max=torch.sym_max,
    sym_min=torch.sym_min,
    sym_float=torch.sym_float,
    getitem=operator.getitem,
)


def _aten_operators() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for name in _ATEN:
        packet = getattr(torch.ops.aten, name, None)  # a name that this version of torch lacks cannot be called
        for overload in packet.overloads() if packet is not None else ():
            target = getattr(packet, overload)
            if not target._schema.is_mutable and overload != "out":
                found[f"aten.{name}.{overload}"] = target
    return found


OPERATORS: dict[str, Callable[..., Any]] = {
    **_aten_operators(),
    **{f"size.{name}": function for name, function in _SIZES.items()},
    "rebnn.binary_conv2d": CONV,
    "rebnn.binary_conv2d_both": CONV_BOTH,
    "rebnn.binary_linear": LINEAR,
    "rebnn.binary_linear_both": LINEAR_BOTH,
    "rebnn.unpack_signs": torch.ops.rebnn_mm.unpack_signs.default,
    "rebnn.affine": functions.affine,
    "rebnn.max_pool_affine": functions.max_pool_affine,
}
_NAMES = {function: name for name, function in OPERATORS.items()}


def name_of(target: Any) -> str:
    """Name of an operator.

    Raises:
        UserError: Files hold no such operator.
    """
    if target not in _NAMES:
        raise UserError(
            f"the network calls {target}, which is not among the {len(OPERATORS)} operators that a file's graph may "
            "call; pack it with its own code: load_model(path, model=...)"
        )
    return _NAMES[target]
