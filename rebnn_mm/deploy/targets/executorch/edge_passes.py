"""The passes of :mod:`rebnn_mm.deploy.targets.executorch.edge`: what each changes is in its docstring.

All of them read ``meta['shape']``, and give it to the nodes that they make.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.graph.convolutions import fold_norm
from rebnn_mm.deploy.graph.functions import affine, max_pool_affine
from rebnn_mm.deploy.graph.passes.norms import is_affine
from rebnn_mm.deploy.graph.pools import both, read_max_pool
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.graph.unit import Unit
from rebnn_mm.deploy.layers.transpose import to_first, to_last
from rebnn_mm.deploy.targets.executorch.operators import MOST_TIMES, NEAREST
from rebnn_mm.errors import UserError

_aten = torch.ops.aten
_ARITHMETIC = (_aten.add.Tensor, _aten.sub.Tensor, _aten.rsub.Scalar, _aten.mul.Tensor, _aten.div.Tensor)
_POOLS = (_aten.max_pool2d.default, _aten.avg_pool2d.default)
_UPSAMPLE = _aten.upsample_nearest2d.vec
_GLOBAL = (_aten.adaptive_avg_pool2d.default, _aten._adaptive_avg_pool2d.default)
_SLOPES = (_aten.prelu.default, _aten._prelu_kernel.default)
_CONTIGUOUS = (_aten.contiguous.default, _aten.clone.default, to_first, to_last)


def fix_sizes(traced: Traced) -> None:
    """Sizes of tensors, and what is computed of them, become numbers: those of the inputs that it is exported for."""
    for node in list(traced.graph.nodes):
        if "size" not in node.meta:
            continue
        for user in list(node.users):
            user.args, user.kwargs = (
                fx.node.map_arg(part, lambda n, size=node: size.meta["size"] if n is size else n)
                for part in (user.args, user.kwargs)
            )
        traced.graph.erase_node(node)
    traced.tidy()


def float_numbers(traced: Traced) -> None:
    """Whole numbers beside floats become floats: ExecuTorch makes tensors of them and converts these in each call."""
    for node in traced.graph.nodes:
        if node.target in _ARITHMETIC and node.meta.get("float"):
            node.args = tuple(float(value) if type(value) is int else value for value in node.args)


def take_upsampling(traced: Traced) -> None:
    """Nearest upsampling to a multiple of its input's size -> :data:`NEAREST`, this multiple of whatever size comes."""
    for node in list(traced.graph.nodes):
        if node.target != _UPSAMPLE:
            continue
        x, after = node.args[0], node.meta["shape"][2:]
        before = x.meta["shape"][2:]
        times = [large // small for large, small in zip(after, before, strict=True)]
        whole = [small * n for small, n in zip(before, times, strict=True)] == list(after)
        if whole and max(times) <= MOST_TIMES:  # else torch.export will find the size
            with traced.graph.inserting_before(node):
                node.replace_all_uses_with(call(traced, NEAREST, (x, times), node.meta["shape"]))
    traced.tidy()


def drop_layouts(traced: Traced) -> None:
    """Nothing converts a memory layout: the whole network keeps the one of its input."""
    for node in list(traced.graph.nodes):
        if node.target in _CONTIGUOUS:
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    traced.tidy()


def pool_last(traced: Traced) -> None:
    """``relu(max_pool_affine(x))`` -> ``max_pool2d(relu(affine(x)))``, which a convolution before it takes up.

    The graph normalises behind the pool, where there are fewer pixels; inside a convolution a norm costs nothing.
    Both are the same bits: scales are not negative there, and ReLU keeps order too.
    """
    for node in list(traced.graph.nodes):
        if node.target is not max_pool_affine:
            continue
        x, scale, offset = node.args
        users = list(node.users)
        relu = users[0] if len(users) == 1 and users[0].target == _aten.relu.default else None
        with traced.graph.inserting_before(node):
            new = call(traced, affine, (x, scale, offset), x.meta["shape"])
            if relu is not None:
                new = call(traced, _aten.relu.default, (new,), x.meta["shape"])
            new = call(traced, _aten.max_pool2d.default, (new, [3, 3], [2, 2], [1, 1]), node.meta["shape"])
        (relu or node).replace_all_uses_with(new)
    traced.tidy()


def fold_norms(traced: Traced) -> None:
    """A norm goes into the convolution or linear layer in front of it, see :func:`fold_norm`."""
    for node in list(traced.graph.nodes):
        if is_affine(node):
            node.meta["rank"] = len(node.meta["shape"])
            fold_norm(traced, node)
    traced.tidy()


def spell_norms(traced: Traced) -> None:
    """An affine that no layer takes up -> a product and a sum, which XNNPACK has."""
    for node in list(traced.graph.nodes):
        if not is_affine(node):
            continue
        x, *vectors = node.args
        shape = node.meta["shape"]
        values = [traced.constant(vector) for vector in vectors]
        assert all(value is not None for value in values), "an affine's vectors are constants"
        shaped = [
            constant(traced, f"{vector.target}.spelled", value.view(1, -1, *[1] * (len(shape) - 2)))
            for vector, value in zip(vectors, values, strict=True)
        ]
        with traced.graph.inserting_before(node):
            product = call(traced, _aten.mul.Tensor, (x, shaped[0]), shape)
            node.replace_all_uses_with(call(traced, _aten.add.Tensor, (product, shaped[1]), shape))
    traced.tidy()


def spell_slopes(traced: Traced) -> None:
    """``prelu(x, slope)`` -> ``relu(x) + slope * min(x, 0)``."""
    for node in list(traced.graph.nodes):
        if node.target not in _SLOPES:
            continue
        x, slope = node.args
        shape, value = node.meta["shape"], traced.constant(slope)
        if value is None:
            continue
        if value.numel() > 1:
            value = value.view(1, -1, *[1] * (len(shape) - 2))
        shaped = constant(traced, f"{slope.target}.spelled", value)
        with traced.graph.inserting_before(node):
            above = call(traced, _aten.relu.default, (x,), shape)
            below = call(traced, _aten.clamp.default, (x, None, 0.0), shape)
            product = call(traced, _aten.mul.Tensor, (below, shaped), shape)
            node.replace_all_uses_with(call(traced, _aten.add.Tensor, (above, product), shape))
    traced.tidy()


def spell_gelus(traced: Traced) -> None:
    """``gelu(x, approximate='tanh')`` -> ``x * (tanh(c (x + 0.044715 x^3)) + 1) / 2``, ``c = sqrt(2 / pi)``.

    XNNPACK takes it for the other GELU, which differs by up to 5e-4.
    """
    for node in list(traced.graph.nodes):
        if node.target != _aten.gelu.default or node.kwargs.get("approximate") != "tanh":
            continue
        x, shape = node.args[0], node.meta["shape"]
        with traced.graph.inserting_before(node):
            inner = call(traced, _aten.mul.Tensor, (x, x), shape)
            inner = call(traced, _aten.mul.Tensor, (inner, 0.044715 * math.sqrt(2 / math.pi)), shape)
            inner = call(traced, _aten.add.Tensor, (inner, math.sqrt(2 / math.pi)), shape)
            inner = call(traced, _aten.mul.Tensor, (inner, x), shape)
            inner = call(traced, _aten.tanh.default, (inner,), shape)
            inner = call(traced, _aten.add.Tensor, (inner, 1.0), shape)
            half = call(traced, _aten.mul.Tensor, (x, 0.5), shape)
            node.replace_all_uses_with(call(traced, _aten.mul.Tensor, (half, inner), shape))
    traced.tidy()


def spell_single_pixels(traced: Traced) -> None:
    """A max-pool of single pixels, an FPN's extra level -> a depthwise convolution by 1; XNNPACK has no such pool."""
    for node in list(traced.graph.nodes):
        pool = read_max_pool(node)
        if pool is None or pool.kernel != [1, 1] or pool.padding != [0, 0] or pool.ceil_mode:
            continue
        x = node.args[0]
        channels = x.meta["shape"][1]
        ones = constant(traced, f"{node.name}.ones", torch.ones(channels, 1, 1, 1))
        with traced.graph.inserting_before(node):
            arguments = (x, ones, None, pool.stride, [0, 0], [1, 1], channels)
            node.replace_all_uses_with(call(traced, _aten.conv2d.default, arguments, node.meta["shape"]))
    traced.tidy()


def round_pools_down(traced: Traced) -> None:
    """``ceil_mode=True`` -> False where both are the same at this size; XNNPACK has no pool that rounds up.

    Raises:
        UserError: They are not the same.
    """
    for node in traced.graph.nodes:
        place = {_POOLS[0]: 5, _POOLS[1]: 4}.get(node.target, 0)
        if not place or len(node.args) <= place or not node.args[place]:
            continue
        x, kernel, stride, padding = node.args[:4]
        dilation = node.args[4] if node.target == _POOLS[0] else 1
        sizes = x.meta["shape"][2:]
        steps = both(stride or kernel)
        spans = [d * (k - 1) + 1 for d, k in zip(both(dilation), both(kernel), strict=True)]
        rest = [
            (size + 2 * pad - span) % step
            for size, span, step, pad in zip(sizes, spans, steps, both(padding), strict=True)
        ]
        if any(rest):
            raise UserError(
                f"a pool of stride {steps} rounds up a feature map of {sizes[0]}x{sizes[1]}, which XNNPACK cannot: "
                "export for images whose height and width are multiples of 32"
            )
        node.args = (*node.args[:place], False, *node.args[place + 1 :])


def keep_dimensions(traced: Traced) -> None:
    """Means over all pixels keep their dimensions, and a reshape behind them drops them; the pool to 1x1 is a mean."""
    for node in list(traced.graph.nodes):
        if node.target in _GLOBAL and both(node.args[1]) == [1, 1]:
            keeps = True
        elif node.target == _aten.mean.dim and len(node.args[0].meta["shape"]) == 4:
            if sorted(dim % 4 for dim in node.args[1]) != [2, 3]:
                continue
            keeps = len(node.args) > 2 and bool(node.args[2])
        else:
            continue
        n, c = node.args[0].meta["shape"][:2]
        with traced.graph.inserting_before(node):
            new = call(traced, _aten.mean.dim, (node.args[0], [2, 3], True), (n, c, 1, 1))
            if not keeps:
                new = call(traced, _aten.reshape.default, (new, [n, c]), (n, c))
        node.replace_all_uses_with(new)
    traced.tidy()


def own_constants(traced: Traced) -> None:
    """Each 1-bit operator has constants of its own: a delegate keeps only those that nobody else reads.

    What is shared otherwise becomes an input of the delegate, a tensor that it does not know what to do with.
    """
    for node in list(traced.graph.nodes):
        unit = Unit.of(node)
        if unit is None:
            continue
        for source in [unit.bits, *unit.tensors.values()]:
            if len(source.users) > 1:
                copy = constant(traced, f"{source.target}.own", traced.tensors[str(source.target)].clone())
                node.replace_input_with(source, copy)
    traced.tidy()


def call(traced: Traced, target: Any, arguments: tuple[Any, ...], shape: Sequence[int]) -> fx.Node:
    """A new node at the graph's insertion point."""
    node = traced.graph.call_function(target, arguments)
    node.meta["shape"] = tuple(shape)
    return node


def constant(traced: Traced, name: str, value: Tensor) -> fx.Node:
    """A new constant."""
    node = traced.add_constant(name, value.contiguous())
    node.meta["shape"] = tuple(value.shape)
    return node
