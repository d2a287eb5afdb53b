"""A fused graph in the form that ExecuTorch and XNNPACK take whole: the edge form.

Real-valued convolutions have contiguous weights and the norms around them inside; pools do not round up; a mean over
the pixels keeps its dimensions; nothing converts a memory layout; sizes are numbers. What differs falls back to
ExecuTorch's portable kernels without a word, up to a hundred times slower, or gives wrong results.
Real-valued parts agree with the graph's up to rounding, which may turn the sign of a value near 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn

from rebnn_mm.deploy.graph.passes.prepare import prepare
from rebnn_mm.deploy.graph.passes.thresholds import pass_thresholds
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.graph.unit import Unit
from rebnn_mm.deploy.graph.values import computed
from rebnn_mm.deploy.targets.executorch import edge_passes as passes
from rebnn_mm.deploy.targets.executorch.edge_groups import spell_group_norms
from rebnn_mm.deploy.targets.executorch.edge_products import spell_attention, spell_products
from rebnn_mm.deploy.targets.executorch.edge_real import take_convolutions
from rebnn_mm.deploy.targets.executorch.edge_signs import spell_comparisons

# constants first, so that norms find them; norms before pools, which may stand between a norm and its convolution; the
# delegate's convolutions before both, with pool and norm
_PASSES = (
    passes.fix_sizes,
    passes.float_numbers,
    passes.take_upsampling,
    passes.drop_layouts,
    take_convolutions,
    passes.pool_last,
    passes.fold_norms,
    passes.spell_norms,
    passes.spell_slopes,
    passes.spell_gelus,
    spell_group_norms,
    spell_comparisons,
    spell_attention,
    spell_products,
    passes.spell_single_pixels,
    passes.round_pools_down,
    passes.keep_dimensions,
    passes.own_constants,
)


class EdgeNetwork(nn.Module):
    """An edge-form graph as a module for ``torch.export``; results are a flat tuple, or one tensor."""

    def __init__(self, traced: Traced) -> None:
        super().__init__()
        holder = nn.Module()
        places: dict[str, str] = {}
        for index, (name, tensor) in enumerate(traced.tensors.items()):
            places[name] = f"constant_{index}"
            # contiguous: XNNPACK reads a weight in the order of its shape whatever its strides say
            holder.register_buffer(places[name], tensor.detach().contiguous())
        for node in traced.graph.nodes:
            if node.op == "get_attr":
                node.target = places[node.target]
            elif node.op == "output":
                leaves = outputs_of(node)
                node.args = (leaves[0] if len(leaves) == 1 else tuple(leaves),)
        self.graph_module = fx.GraphModule(holder, traced.graph)

    def forward(self, *inputs: Tensor) -> Any:
        """Compute."""
        return self.graph_module(*inputs)


def outputs_of(node: fx.Node) -> list[fx.Node]:
    """The tensors of an output node in order, those of dicts by the order of their keys."""
    found: list[fx.Node] = []

    def visit(value: Any) -> None:
        if isinstance(value, fx.Node):
            found.append(value)
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
            visit(item)

    visit(node.args[0])
    return found


def edge_form(traced: Traced, inputs: Sequence[Tensor], real: bool = True) -> EdgeNetwork:
    """The network of ``traced`` for inputs of the sizes of ``inputs``; ``traced`` is changed.

    Args:
        traced: A fused graph.
        inputs: Of the network.
        real: Whether the delegate may take real-valued convolutions; False leaves them all to XNNPACK.

    Raises:
        UserError: A pool rounds up at this size.
    """
    prepare(traced, exact=False)
    pass_thresholds(traced, exact=False)
    record_values(traced, inputs)
    for run in _PASSES:
        if real or run is not take_convolutions:
            run(traced)
        traced.graph.lint()
    return EdgeNetwork(traced).eval()


def record_values(traced: Traced, inputs: Sequence[Tensor]) -> None:
    """Compute the graph and write each result's shape to ``meta['shape']``, each size's number to ``meta['size']``."""
    for node, values in computed(traced, inputs):
        value = values[node]
        if isinstance(value, Tensor):
            node.meta["shape"] = tuple(value.shape)
            node.meta["float"] = value.is_floating_point()
        elif isinstance(value, (int, float)):
            node.meta["size"] = value


def count_units(traced: Traced) -> int:
    """Number of 1-bit operators."""
    return sum(Unit.of(node) is not None for node in traced.graph.nodes)
