"""Captured graphs tried out: whether they give what their module gives, for other sizes of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rebnn_mm.deploy.graph.traced import InputSpec

_FARTHEST = 16  # times the size of an example that are tried at most


def tensors_of(values: Any) -> list[Tensor]:
    """The tensors of nested tuples, lists and dicts, in order."""
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def alike(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> bool:
    """Whether two results are the same but for a few values: the last digits of some may turn a sign."""
    return len(wanted) == len(found) and all(_alike(a, b) for a, b in zip(wanted, found, strict=True))


def _alike(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype or not a.numel():
        return a.shape == b.shape and a.dtype == b.dtype
    a, b = a.double().nan_to_num(), b.double().nan_to_num()
    return float((a - b).abs().median()) <= 1e-4 * float(a.abs().max())


def holds_for_others(
    program: torch.export.ExportedProgram,
    graph: Callable[..., Any],
    module: nn.Module,
    inputs: Sequence[Tensor],
    sizes: Sequence[Collection[int]],
    odd: bool,
) -> bool:
    """Whether a captured graph computes what ``module`` does for inputs of other sizes, as far as a few tell.

    Code that branches on the size of its input leaves one branch in the graph: MMPretrain's MobileViT resizes maps of
    an odd size, and its graph for an even one does not. ``torch.export`` writes down what it took for granted, so only
    sizes that break that are computed. Where the module itself fails, the graph may, too.

    Args:
        program: The exported ``module``, which refuses sizes that break what was taken for granted.
        graph: Its calls without such checks.
        module: In eval mode.
        inputs: What it was exported with.
        sizes: For each input the dimensions that may change; the first, the batch, is left as it is.
        odd: Try odd sizes, too.
    """
    careful = program.module()
    with torch.no_grad():
        for others in _others(inputs, sizes, odd):
            if _results(careful, others) is None and not _agrees(graph, module, others, fails=True):
                return False
    return True


def within_bounds(
    specs: Sequence[InputSpec], graph: Callable[..., Any], module: nn.Module, inputs: Sequence[Tensor]
) -> list[InputSpec]:
    """``specs`` with the bounds that the graph needs, of those that ``torch.export`` found while it followed the code.

    A bound is there for a branch (``if x.shape[0] > 4``), for the length of a table, or for nothing: a pyramid's last
    level of one pixel has one. A size beyond each is tried, and one for which ``torch.export`` writes no bound: the
    batch of one.

    Args:
        specs: The graph's inputs, with those bounds.
        graph: Its calls.
        module: In eval mode.
        inputs: What it was exported with.
    """
    specs = list(specs)
    pairs = list(zip(inputs, specs, strict=True))
    bounds = {(size, most) for x, spec in pairs for size, most in zip(x.shape, spec.most, strict=True) if most}
    for size, most in sorted(bounds):
        if most > _FARTHEST * size:  # too large to be tried: the bound stays
            continue
        places = [[d for d, own in enumerate(spec.most) if (x.shape[d], own) == (size, most)] for x, spec in pairs]
        multiple = most // size + 1  # of the size, as halves of it may be taken
        beyond = [_resized(x, own, lambda size, m=multiple: size * m) for x, own in zip(inputs, places, strict=True)]
        if _agrees(graph, module, beyond, fails=False):
            for index, own in enumerate(places):
                most_sizes = (None if d in own else other for d, other in enumerate(specs[index].most))
                specs[index] = replace(specs[index], most=tuple(most_sizes))
    batches = [index for index, (x, spec) in enumerate(pairs) if spec.shape[:1] == (None,) and len(x) > 1]
    one = [x[:1] if index in batches else x for index, x in enumerate(inputs)]
    if batches and not _agrees(graph, module, one, fails=True):
        for index in batches:
            specs[index] = replace(specs[index], least=(2, *specs[index].least[1:]))
    return specs


def _agrees(graph: Callable[..., Any], module: nn.Module, inputs: list[Tensor], fails: bool) -> bool:
    """Whether the graph computes what ``module`` does for ``inputs``; ``fails`` where the module fails."""
    with torch.no_grad():
        wanted = _results(module, inputs)
        if wanted is None:
            return fails
        found = _results(graph, inputs)
    return found is not None and alike(wanted, found)


def _others(inputs: Sequence[Tensor], sizes: Sequence[Collection[int]], odd: bool) -> list[list[Tensor]]:
    """The inputs half as large again, where sizes of several keep their proportions, and by one larger."""
    opened = [x.shape[place] for x, places in zip(inputs, sizes, strict=True) for place in places if place]
    if not opened:
        return []
    changes: list[Callable[[int], int]] = []
    if all(size % 2 == 0 for size in opened):
        changes.append(lambda size: size * 3 // 2)
    if odd:
        changes.append(lambda size: size + 1)
    return [
        [_resized(x, [place for place in places if place], change) for x, places in zip(inputs, sizes, strict=True)]
        for change in changes
    ]


def _resized(x: Tensor, places: Sequence[int], change: Callable[[int], int]) -> Tensor:
    """The values of ``x`` again and again, in these dimensions."""
    for place in places:
        index = torch.arange(change(x.shape[place]), device=x.device) % x.shape[place]
        x = x.index_select(place, index)
    return x


def _results(module: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor] | None:
    """The tensors that it returns, ``inputs`` left as they are; None where it fails."""
    try:
        return tensors_of(module(*(x.clone() for x in inputs)))
    except Exception:  # a foreign forward, and what torch.export checks, raise anything
        return None
