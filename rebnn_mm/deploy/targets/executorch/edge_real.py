"""The pass that gives real-valued convolutions to the delegate: see :mod:`.operators` for which, and why."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor, fx

from rebnn_mm.deploy.graph.convolutions import CONV, ConvCall, only_reader
from rebnn_mm.deploy.graph.functions import max_pool_affine
from rebnn_mm.deploy.graph.passes.after import limits_of
from rebnn_mm.deploy.graph.passes.norms import is_affine
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.targets.executorch.edge_passes import call, constant
from rebnn_mm.deploy.targets.executorch.operators import REAL

_FEW = 4  # channels of a stem's input


def take_convolutions(traced: Traced) -> None:
    """``clamp(affine(max_pool(conv2d(x))))`` -> :data:`REAL`, for stems and for convolutions of one output channel."""
    for node in list(traced.graph.nodes):
        found = _read(traced, node)
        if found is None:
            continue
        weight, spec, bias = found.weight, found.spec, found.bias
        last, norm, max_pool = node, None, False
        reader = only_reader(node)
        if bias is None and reader is not None and (reader.target is max_pool_affine or is_affine(reader)):
            norm = _constants(traced, *reader.args[1:3])
            if norm is not None:
                last, max_pool = reader, reader.target is max_pool_affine
        if norm is None:
            norm = (torch.ones(spec.c_out), torch.zeros(spec.c_out) if bias is None else bias)
        reader = only_reader(last)
        limits = None if reader is None else limits_of(reader)
        if reader is not None and limits is not None:
            last = reader
        name = str(node.args[1].target)
        vectors = [constant(traced, f"{name}.{part}", v) for part, v in zip(("scale", "offset"), norm, strict=True)]
        own = constant(traced, f"{name}.real", weight)
        with traced.graph.inserting_before(last):
            arguments = (node.args[0], own, *vectors, spec.ints(), list(limits or (-inf, inf)), max_pool)
            new = call(traced, REAL, arguments, last.meta["shape"])
        last.replace_all_uses_with(new)
    traced.tidy()


def _read(traced: Traced, node: fx.Node) -> ConvCall | None:
    """A convolution that the delegate takes; None for all else."""
    if node.target != CONV or len(node.meta.get("shape", ())) != 4:
        return None
    conv = ConvCall.read(traced, node)
    if conv is None:
        return None
    spec = conv.spec
    alike = all(vertical == horizontal for vertical, horizontal in (spec.stride, spec.padding))
    few = spec.c_in <= _FEW or spec.c_out == 1
    return conv if alike and few and spec.groups == 1 and spec.dilation == (1, 1) else None


def _constants(traced: Traced, *nodes: Any) -> tuple[Tensor, ...] | None:
    values = tuple(traced.constant(node) for node in nodes)
    return None if any(value is None for value in values) else values  # type: ignore[return-value]
