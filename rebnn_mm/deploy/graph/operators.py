"""The operators that a file's graph may call, by name: functions of tensors and sizes, and nothing else."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from rebnn_mm.deploy.graph import functions
from rebnn_mm.deploy.graph.unit import CONV, CONV_BOTH, LINEAR, LINEAR_BOTH
from rebnn_mm.errors import UserError

# ATen operators that read their arguments and return new tensors or views, by base name; every overload is taken that
# changes nothing. None reads a file, draws a random number or prints, and each checks the indices that it is given.
# These are the core ATen operators but :data:`LEFT_OUT`, and what torch.export leaves whole above them.
_ATEN: dict[str, str] = dict(
    elementwise="""
        abs absolute acos acosh add addcdiv addcmul arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan
        atan2 atanh bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor __and__
        __lshift__ __or__ __rshift__ __xor__ ceil celu clamp clamp_max clamp_min clip copysign cos cosh deg2rad digamma
        div divide elu eq erf erfc erfinv exp exp2 expm1 fix float_power floor floor_divide fmax fmin fmod frac ge gelu
        glu greater greater_equal gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot isclose isfinite isinf
        isnan isneginf isposinf isreal ldexp le leaky_relu lerp less less_equal lgamma log log10 log1p log2 log_sigmoid
        log_sigmoid_forward logaddexp logaddexp2 logical_and logical_not logical_or logical_xor logit lt maximum minimum
        mish mul multiply nan_to_num ne neg negative not_equal positive pow prelu _prelu_kernel rad2deg reciprocal relu
        relu6 remainder round rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink
        special_entr special_erf special_erfc special_erfinv special_exp2 special_expit special_expm1 special_log1p
        special_logit special_ndtr special_round special_sinc special_xlog1py special_xlogy sqrt square sub subtract tan
        tanh threshold true_divide trunc where xlogy
        """,
    reductions="""
        all amax amin aminmax any argmax argmin argsort bucketize cdist _cdist_forward cosine_similarity count_nonzero
        cummax cummin cumprod cumsum diff dist _euclidean_dist frobenius_norm kthvalue linalg_matrix_norm linalg_norm
        linalg_vector_norm logcumsumexp logsumexp max mean median min mode msort nanmean nanmedian nanquantile nansum
        norm nuclear_norm pairwise_distance pdist _pdist_forward prod quantile renorm searchsorted sort
        special_logsumexp std std_mean sum topk trace trapezoid trapz var var_mean
        """,
    products="""
        addbmm addmm addmv addr baddbmm bilinear bmm chain_matmul conv1d conv2d conv3d conv_transpose1d conv_transpose2d
        conv_transpose3d convolution _convolution cross det dot einsum ger inner inverse kron linalg_cholesky
        linalg_cross linalg_det linalg_inv linalg_inv_ex linalg_matmul linalg_matrix_exp linalg_matrix_power
        linalg_multi_dot linalg_pinv linalg_qr linalg_solve linalg_solve_triangular linalg_vecdot linear matmul
        matrix_exp matrix_power mm mv outer pinverse scaled_dot_product_attention _safe_softmax
        _scaled_dot_product_attention_math _scaled_dot_product_flash_attention_for_cpu tensordot vdot
        """,
    norms="""
        batch_norm group_norm instance_norm layer_norm log_softmax _log_softmax _native_batch_norm_legit
        _native_batch_norm_legit_no_training native_group_norm native_layer_norm rms_norm _fused_rms_norm softmax
        _softmax special_log_softmax special_softmax
        """,
    images="""
        adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool3d
        adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d affine_grid_generator avg_pool1d avg_pool2d
        avg_pool3d channel_shuffle col2im constant_pad_nd grid_sampler grid_sampler_2d grid_sampler_3d im2col max_pool1d
        max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool2d
        max_unpool3d native_channel_shuffle pad _pad_circular _pad_enum pixel_shuffle pixel_unshuffle reflection_pad1d
        reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d upsample_bicubic2d
        _upsample_bicubic2d_aa upsample_bilinear2d _upsample_bilinear2d_aa upsample_linear1d upsample_nearest1d
        upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
        _upsample_nearest_exact3d upsample_trilinear3d
        """,
    spectra="""
        complex conj _conj conj_physical _conj_physical _fft_c2c _fft_c2r _fft_r2c fft_fft fft_fft2 fft_fftn
        fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2
        fft_rfftn imag polar real resolve_conj resolve_neg view_as_complex view_as_real
        """,
    places="""
        adjoint alias alias_copy argwhere atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors broadcast_to cat
        chunk clone column_stack concat concatenate contiguous copy detach detach_copy diag diag_embed diagflat diagonal
        diagonal_copy diagonal_scatter dsplit dstack embedding embedding_bag _embedding_bag expand expand_as expand_copy
        flatten flip fliplr flipud gather hsplit hstack index index_add index_copy index_fill index_put index_reduce
        index_select lift_fresh lift_fresh_copy linalg_diagonal mH mT masked_fill masked_scatter masked_select matrix_H
        meshgrid moveaxis movedim narrow narrow_copy nonzero numpy_T one_hot pad_sequence permute permute_copy ravel
        repeat repeat_interleave reshape reshape_as roll rot90 row_stack scatter scatter_add scatter_reduce select
        select_copy select_scatter slice slice_copy slice_scatter split split_copy split_with_sizes
        split_with_sizes_copy squeeze squeeze_copy stack sum_to_size swapaxes swapdims sym_numel sym_size t t_copy take
        take_along_dim tensor_split tile to _to_copy transpose transpose_copy tril triu type_as unbind unbind_copy
        unflatten unfold unfold_copy unsafe_chunk unsafe_split unsafe_split_with_sizes _unsafe_view unsqueeze
        unsqueeze_copy view view_as view_copy vsplit vstack
        """,
    creation="""
        arange empty empty_like eye fill full full_like linspace logspace new_empty new_full new_ones new_zeros ones
        ones_like scalar_tensor tril_indices triu_indices vander zero zeros zeros_like
        """,
)
#: Those whose results take more work than they have elements, by base name.
PRODUCTS = frozenset((*_ATEN["products"].split(), "cdist", "_cdist_forward", "pdist", "_pdist_forward"))
_RANDOM = "it draws random numbers, so that no file could be compared with its model"
_LAYOUT = "it depends on how tensors lie in memory, which differs between machines"
_BACKWARD = "it computes gradients, and files are for inference"
#: Core ATen operators without side effects that files do not call, by base name, and why.
LEFT_OUT: dict[str, str] = {
    **dict.fromkeys(("native_dropout", "rand", "randn", "randperm"), _RANDOM),
    **dict.fromkeys(("as_strided", "empty_strided", "sym_is_contiguous", "sym_storage_offset", "sym_stride"), _LAYOUT),
    **dict.fromkeys(("_adaptive_avg_pool2d_backward", "avg_pool2d_backward", "convolution_backward"), _BACKWARD),
    **dict.fromkeys(("embedding_dense_backward", "max_pool2d_with_indices_backward"), _BACKWARD),
    **dict.fromkeys(("native_group_norm_backward", "native_layer_norm_backward"), _BACKWARD),
    "_local_scalar_dense": "it makes a size of a tensor's value, and graphs have sizes of their inputs only",
}
# what torch.export computes with sizes by Python's own functions
_SIZES: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(operator, name)
        for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge", "truediv")
    },
    **{
        name.strip("_"): getattr(operator, name)
        for name in ("getitem", "and_", "or_", "not_", "abs", "pow", "lshift", "rshift")
    },
    **{name: getattr(math, name) for name in ("ceil", "floor", "trunc")},
    **{
        name: getattr(torch, name)
        for name in ("sym_max", "sym_min", "sym_float", "sym_int", "sym_ite", "sym_not", "_sym_sqrt", "sym_sum")
        if hasattr(torch, name)  # the last is younger than the oldest torch that is supported
    },
    "round": round,
}


def _aten_operators() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for name in " ".join(_ATEN.values()).split():
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
    "rebnn.unpack_signs": torch.ops.rebnn_mm.from_bits.default,  # a file's word for it
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
        schema = getattr(target, "_schema", None)
        why = LEFT_OUT.get(schema.name.removeprefix("aten::")) if schema is not None else None
        raise UserError(
            f"the network calls {target}, which is not among the {len(OPERATORS)} operators that a file's graph may "
            f"call{f': {why}' if why else ''}; pack it with its own code: load_model(path, model=...)"
        )
    return _NAMES[target]
