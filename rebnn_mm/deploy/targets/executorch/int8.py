"""Real-valued linear layers of a program in 8 bits, by ExecuTorch's quantizer for XNNPACK; all else stays as it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from rebnn_mm.deploy.targets.executorch.lowering import as_taken, export_module
from rebnn_mm.deploy.targets.executorch.sizes import Sizes
from rebnn_mm.deploy.targets.network import Chain


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
