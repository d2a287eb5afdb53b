"""Real-valued layers of a program in 8 bits, by ExecuTorch's quantizer for XNNPACK; all else stays as it is.

Rounding in front of a sign turns it: a whole detector in 8 bits gave maps that differed by 80 %. So what a 1-bit layer
reads, however far behind, is never rounded to few values that were fixed before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from rebnn_mm.deploy.targets.executorch.edge_signs import STEEP
from rebnn_mm.deploy.targets.executorch.lowering import as_taken, export_module
from rebnn_mm.deploy.targets.executorch.operators import BOTH, ONE, REAL, name_of, operator_of
from rebnn_mm.deploy.targets.executorch.sizes import Sizes
from rebnn_mm.deploy.targets.network import Chain
from rebnn_mm.errors import UserError

_aten = torch.ops.aten
_LAYERS = (_aten.conv2d.default, _aten.linear.default)
_COMPARISONS = ("ge", "gt", "le", "lt", "eq", "ne", "sign", "sgn", "floor", "round", "argmax", "topk")


@dataclass(frozen=True)
class Int8Rest:
    """What was done with a method's real-valued layers.

    Attributes:
        taken: Layers that compute on integers.
        left: Layers in float with the reason, one sentence each.
    """

    taken: tuple[str, ...]
    left: tuple[str, ...]

    def lines(self, method: str, images: int) -> list[str]:
        """What is printed."""
        taken = "; ".join(_counted(self.taken)) or "no layer, as 1-bit layers read all of them"
        left = [f"  left in float: {name}" for name in _counted(self.left)]
        return [f"{method} in 8 bits, by {images} inputs: {taken}", *left]


def _counted(names: Sequence[str]) -> list[str]:
    """Each name once, with the number of times."""
    return [name if count == 1 else f"{count} times {name}" for name, count in Counter(names).items()]


def with_int8_linears(module: nn.Module, inputs: Sequence[Tensor], sizes: Sizes | None = None) -> nn.Module:
    """``module`` whose linear layers have weights of 8 bits, a scale for each output, and compute on integers.

    What they take is rounded to 8 bits between the least and the largest value that a call brings, so no images are
    needed to know these before.

    Args:
        module: In edge form.
        inputs: As for :func:`rebnn_mm.deploy.targets.executorch.lowering.lower_methods`.
        sizes: Of the images, where the method takes several.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    exported = export_module(module, inputs, sizes).module()
    if not any(node.target == torch.ops.aten.linear.default for node in exported.graph.nodes):
        return module
    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    quantizer = XNNPACKQuantizer().set_operator_type(torch.ops.aten.linear.default, config)
    prepared = prepare_pt2e(exported, quantizer)
    with torch.no_grad():
        prepared(*map(as_taken, inputs))
    converted: fx.GraphModule = convert_pt2e(prepared)
    _drop_unread(converted)
    return Chain([converted])


def _drop_unread(module: fx.GraphModule) -> None:
    """Remove constants that no node reads: the weights as they were, which would be in the file, too."""
    read = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name in [*dict(module.named_parameters()), *dict(module.named_buffers())]:
        if name not in read:
            folder, _, last = name.rpartition(".")
            delattr(module.get_submodule(folder), last)


def with_int8_rest(
    module: nn.Module, inputs: Sequence[Tensor], samples: Sequence[Sequence[Tensor]], sizes: Sizes | None = None
) -> tuple[nn.Module, Int8Rest]:
    """``module`` whose convolutions and linear layers that no 1-bit layer follows take, hold and give 8 bits.

    Weights have a scale for each output; what goes in and out has one for all, by the least and largest value that
    ``samples`` bring.

    Args:
        module: In edge form.
        inputs: As for :func:`rebnn_mm.deploy.targets.executorch.lowering.lower_methods`.
        samples: Inputs of real data.
        sizes: Of the images, where the method takes several.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    exported: Any = export_module(module, inputs, sizes).module()
    signs = _read_by_signs(exported)
    layers = [node for node in exported.graph.nodes if node.target in _LAYERS]
    report = Int8Rest(
        tuple(_named(node) for node in layers if node not in signs),
        (
            *(f"{_named(node)}, which a 1-bit layer reads" for node in layers if node in signs),
            *(f"{name_of(n)}, in this package's kernels" for n in exported.graph.nodes if operator_of(n) is REAL),
        ),
    )
    if not report.taken:
        return module, report
    free = {node.name for node in layers if node not in signs}
    for node in layers:
        if node.name in free:
            _own_constants(exported, node)
    config = get_symmetric_quantization_config(is_per_channel=True)
    quantizer = XNNPACKQuantizer()
    for target in _LAYERS:
        quantizer.set_operator_type(target, config)
    quantizer.set_filter_function(lambda node: node.target not in _LAYERS or node.name in free)
    prepared = prepare_pt2e(exported, quantizer)
    with torch.no_grad():
        for sample in samples:
            prepared(*map(as_taken, sample))
    converted: fx.GraphModule = convert_pt2e(prepared)
    _drop_unread(converted)
    rounded = [node for node in _read_by_signs(converted) if "quantize_per_tensor" in str(node.target)]
    if rounded:
        raise UserError(f"the quantizer rounds what 1-bit layers read ({rounded[0]}): export without --int8-rest")
    return Chain([converted]), report


def _own_constants(module: fx.GraphModule, node: fx.Node) -> None:
    """Give a layer copies of constants that others read, too: XNNPACK refuses weights in 8 bits that are shared."""
    for source in [n for n in node.all_input_nodes if n.op == "get_attr" and len(n.users) > 1]:
        name = f"own_{node.name}_{source.name}"
        value = module
        for part in str(source.target).split("."):
            value = getattr(value, part)
        module.register_buffer(name, value.detach().clone())  # type: ignore[operator]
        with module.graph.inserting_before(node):
            copy = module.graph.get_attr(name)
        copy.meta = dict(source.meta)
        node.replace_input_with(source, copy)
    module.recompile()


def _read_by_signs(module: fx.GraphModule) -> set[fx.Node]:
    """All nodes whose values a sign or a comparison reads, however far behind."""
    found: set[fx.Node] = set()
    for node in reversed(module.graph.nodes):
        if any(user in found or _takes_signs(module, user) for user in node.users):
            found.add(node)
    return found


def _takes_signs(module: fx.GraphModule, node: fx.Node) -> bool:
    if operator_of(node) in (*ONE, *BOTH):
        return True
    name = str(node.target)
    if name.startswith("aten.mul"):  # a comparison, as spelled for XNNPACK
        return any(_number(module, argument) == STEEP for argument in node.args)
    return name.startswith("aten.") and name.split(".")[1] in _COMPARISONS


def _number(module: fx.GraphModule, argument: Any) -> float | None:
    if isinstance(argument, fx.Node) and argument.op == "get_attr":
        argument = getattr(module, str(argument.target), None)
    if isinstance(argument, Tensor):
        return float(argument) if argument.numel() == 1 else None
    return argument if isinstance(argument, float) else None


def _named(node: fx.Node) -> str:
    """A layer with its sizes."""
    weight: Any = node.args[1]
    c_out, c_in, *kernel = weight.meta["val"].shape
    if not kernel:
        return f"linear layer {c_in} -> {c_out}"
    return f"convolution {kernel[0]}x{kernel[1]}, {c_in} -> {c_out} channels"
