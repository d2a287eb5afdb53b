"""Real-valued convolutions with what follows them, and global means, as one step of a prepared program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.graph.convolutions import ConvCall, only_reader
from rebnn_mm.deploy.graph.functions import conv2d_exact, conv2d_last, max_pool_affine
from rebnn_mm.deploy.graph.passes.after import limits_of
from rebnn_mm.deploy.graph.passes.norms import is_affine
from rebnn_mm.deploy.graph.real import Chain, Tried, Way
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.layers.depthwise import DepthwisePlan
from rebnn_mm.deploy.layers.pool import has_vectors, pixel_mean
from rebnn_mm.deploy.layers.real_conv2d import RealConv2dPlan
from rebnn_mm.deploy.layers.transpose import to_first
from rebnn_mm.deploy.operation.spec import ConvSpec

_MEAN = torch.ops.aten.adaptive_avg_pool2d.default
_LANES = (8, 4)  # floats in the vectors of torch's sums
_FEW = 4  # input channels of a stem
# how many products of a 1x1 kernel libraries add up before they start another sum (MKL: 192 on AMD)
_CHUNKS = (192, 256, 384)


def join_real(traced: Traced, exact: bool) -> None:
    """``clamp(affine(max_pool(conv(x))))`` -> one step, for depthwise kernels, 1x1 kernels and those of few channels.

    Large kernels of many channels stay torch's: they are as fast there. With ``exact`` every step is tried out against
    torch (see :class:`Tried`). Its result is in channels-last memory, as before.
    """
    if exact:
        _join_means(traced)
    for node in list(traced.graph.nodes):
        joined = _Joined.at(traced, node)
        step = None if joined is None else joined.step(traced, exact)
        if joined is None or step is None:
            continue
        with traced.graph.inserting_before(joined.nodes[-1]):
            new = traced.graph.create_node("call_function", step, (node.args[0],), name="real")
        new.meta = dict(joined.nodes[-1].meta)
        joined.nodes[-1].replace_all_uses_with(new)
        for part in reversed(joined.nodes):
            traced.graph.erase_node(part)


def _join_means(traced: Traced) -> None:
    """``adaptive_avg_pool2d(to_first(x), 1)`` -> one step that reads channels-last memory."""
    for node in list(traced.graph.nodes):
        source = node.args[0] if node.target == _MEAN and list(node.args[1]) == [1, 1] else None
        if source is None or source.target is not to_first or not has_vectors():
            continue
        ways = [partial(pixel_mean, lanes=lanes) for lanes in _LANES]
        step = Tried(Chain([(to_first, (), {}), (_MEAN, (node.args[1],), {})]), ways)
        with traced.graph.inserting_before(node):
            new = traced.graph.create_node("call_function", step, (source.args[0],), name="mean")
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        for part in (node, source):
            if not part.users:
                traced.graph.erase_node(part)


@dataclass
class _Joined:
    """A convolution and what follows it.

    Attributes:
        nodes: The convolution first; each the only reader of the one before.
        bias: Of the convolution.
        norm: (scale, offset) behind it.
    """

    nodes: list[fx.Node]
    weight: Tensor
    spec: ConvSpec
    bias: Tensor | None
    norm: tuple[Tensor, Tensor] | None = None
    clamp: tuple[float, float] | None = None
    max_pool: bool = False

    @classmethod
    def at(cls, traced: Traced, node: fx.Node) -> _Joined | None:
        """What starts at ``node``; None if it is no convolution of constants."""
        if node.target not in (conv2d_exact, conv2d_last):
            return None
        call = ConvCall.read(traced, node)
        if call is None:
            return None
        joined = cls([node], call.weight, call.spec, call.bias)
        if _has_kernel(call.spec):
            joined._take_norm(traced)
            joined._take_clamp()
        return joined

    def _take_norm(self, traced: Traced) -> None:
        reader = only_reader(self.nodes[-1])
        pool = reader is not None and reader.target is max_pool_affine and self.spec.groups == 1
        taken = self.bias is not None and self.spec.groups == 1  # it stands in the place of the norm
        if reader is None or taken or not (pool or is_affine(reader)):
            return
        scale, offset = (traced.constant(argument) for argument in reader.args[1:3])
        if scale is not None and offset is not None:
            self.norm, self.max_pool = (scale, offset), pool
            self.nodes.append(reader)

    def _take_clamp(self) -> None:
        reader = only_reader(self.nodes[-1])
        self.clamp = None if reader is None else limits_of(reader)
        if reader is not None and self.clamp is not None:
            self.nodes.append(reader)

    def step(self, traced: Traced, exact: bool) -> Way | None:
        """The step, with ``exact`` in the bits of torch; None if the nodes are all that there is."""
        plans = self._plans() if _has_kernel(self.spec) else []
        if not exact:
            return plans[0] if plans else None
        calls = [_call(traced, node) for node in self.nodes]
        ways: list[Way] = [*plans]
        if calls[0][0] is conv2d_exact:  # torch itself in the faster layout
            ways.append(Chain([(conv2d_last, *calls[0][1:]), *calls[1:]]))
        return Tried(Chain(calls), ways) if ways else None

    def _plans(self) -> list[Any]:
        """The kernels' ways, in the orders of sums that libraries are known to take."""
        added = self.norm if self.bias is None else (torch.ones_like(self.bias), self.bias)
        if self.spec.groups > 1:
            plans = [DepthwisePlan(self.weight, self.spec, self.norm, self.clamp, self.bias)]
            ends = self.bias is not None and self.norm is None
            return [*plans, *([DepthwisePlan(self.weight, self.spec, added, self.clamp)] if ends else [])]
        plan, c_in = RealConv2dPlan(self.weight, self.spec, added, self.clamp, self.max_pool), self.spec.c_in
        chunks = [chunk for chunk in {*_CHUNKS, -(-c_in // 2)} if min(_CHUNKS) < c_in > chunk]
        return [plan, *(plan.in_chunks(chunk) for chunk in chunks if self.spec.weight_shape[2:] == (1, 1))]


def _has_kernel(spec: ConvSpec) -> bool:
    """Whether there is a kernel for it that beats torch, which has vector instructions."""
    if not has_vectors():
        return False
    alike = all(vertical == horizontal for vertical, horizontal in (spec.stride, spec.padding, spec.dilation))
    c_out, in_group, *kernel = spec.weight_shape
    if not alike:
        return False
    if spec.groups > 1:
        return in_group == 1 and spec.groups == c_out
    return spec.dilation == (1, 1) and (in_group <= _FEW or kernel == [1, 1])


def _call(traced: Traced, node: fx.Node) -> tuple[Callable[..., Any], list[Any], dict[str, Any]]:
    """A node's function and its arguments behind the first, with its constants filled in."""
    arguments = [traced.constant(value) if isinstance(value, fx.Node) else value for value in node.args[1:]]
    assert callable(node.target)
    return node.target, arguments, dict(node.kwargs)
