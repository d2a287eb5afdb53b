"""Which signs in front of 1-bit layers OpenVINO takes otherwise than the packed network in torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.deploy.graph.network import GraphNetwork, flatten
from rebnn_mm.deploy.graph.traced import Traced
from rebnn_mm.deploy.graph.unit import Unit
from rebnn_mm.deploy.graph.values import computed
from rebnn_mm.deploy.load import PackedClassifier
from rebnn_mm.deploy.operation.signs import from_signs
from rebnn_mm.deploy.operation.steps import InputSide
from rebnn_mm.deploy.targets.network import Network, graphs_in_order
from rebnn_mm.deploy.targets.openvino.core import compile_model
from rebnn_mm.deploy.targets.openvino.thresholds import sign_thresholds
from rebnn_mm.deploy.targets.openvino.units import UNIT

_SIGN = f"{UNIT}/sign"
_PROBE = "rebnn_probe_"
Signs = dict[tuple[str, int], Tensor]  # by the layer's name and the number of signs: levels of a pyramid share layers


@dataclass(frozen=True)
class TurnedSigns:
    """Signs in front of all 1-bit layers that are computed on bits.

    Attributes:
        turned: Those that differ.
        total: All.
    """

    turned: int
    total: int

    def __str__(self) -> str:
        return f"{self.turned} of {self.total} signs turned"


def turned_signs(network: Network, model: Any, inputs: Sequence[Tensor]) -> TurnedSigns:
    """Compare the bits of both, layer by layer.

    Args:
        network: A packed network, or several that are called one after the other.
        model: The ``openvino.Model`` of it; a copy is run.
        inputs: What both take.
    """
    found, expected = _openvino_signs(model, inputs), _torch_signs(network, inputs)
    both = found.keys() & expected.keys()
    turned = sum(int((found[key] != expected[key]).sum()) for key in both)
    return TurnedSigns(turned, sum(expected[key].numel() for key in both))


def _openvino_signs(model: Any, inputs: Sequence[Tensor]) -> Signs:
    probe = model.clone()
    nodes = [node for node in probe.get_ordered_ops() if node.get_friendly_name().endswith(_SIGN)]
    # what the signs are taken of: reading the bits themselves crashes OpenVINO 2026.4.1. Layers may share a map, which
    # may be an output of the network: a name finds it, where the place among the outputs does not
    for index, node in enumerate(nodes):
        node.input_value(0).get_tensor().add_names({f"{_PROBE}{index}"})
    probe.add_outputs([node.input_value(0) for node in nodes])
    compiled = compile_model(probe)
    results = compiled([x.numpy() for x in inputs])
    signs: Signs = {}
    for index, node in enumerate(nodes):
        values = results[compiled.output(f"{_PROBE}{index}")]
        bits = torch.from_numpy(values > node.input_value(1).get_node().data)
        signs[node.get_friendly_name().removesuffix(_SIGN), bits.numel()] = bits.flatten()
    return signs


def _torch_signs(network: Network, inputs: Sequence[Tensor]) -> Signs:
    if isinstance(network, PackedClassifier):
        inputs = [network.normalize(inputs[0])]
    signs: Signs = {}
    values: Any = list(inputs)
    for part in graphs_in_order(network):
        signs |= {(name, bits.numel()): bits.flatten() for name, bits in _bits_of(part, flatten(values))}
        with torch.no_grad():
            values = part(*flatten(values))
    return signs


def _bits_of(network: GraphNetwork, inputs: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(name of a layer, what its comparison with the threshold says), as OpenVINO has it, node after node."""
    traced = network.traced()
    for node, values in computed(traced, inputs):
        unit = Unit.of(node)
        if unit is not None:
            yield str(unit.bits.target).removesuffix(".weight"), _bits(unit, values[unit.x], traced)


def _bits(unit: Unit, x: Tensor, traced: Traced) -> Tensor:
    channels = unit.spec.c_in
    if x.dtype != torch.int32:
        thresholds, _ = sign_thresholds(_side(unit, traced, ""), channels)
        return x > (thresholds if unit.is_linear else thresholds.view(-1, 1, 1))
    # an earlier unit has taken the signs, and holds the steps in front of them; it may give floats beside them
    earlier = Unit.of(unit.x) or Unit.of(unit.x.args[0])
    assert earlier is not None, "only 1-bit units give signs"
    _, falling = sign_thresholds(_side(earlier, traced, "sign_"), channels)
    rows = x.view(-1, 1, 1, x.shape[-1]) if unit.is_linear else x
    return (from_signs(rows, channels) > 0) != falling.view(-1, 1, 1)


def _side(unit: Unit, traced: Traced, prefix: str) -> InputSide:
    """The steps in front of a unit's own sign, or of the signs that it gives."""
    own = {name: traced.constant(node) for name, node in unit.tensors.items()}
    scale, offset = ("sign_scale", "sign_offset") if prefix else ("input_scale", "input_offset")
    norm: Any = (own[scale], own[offset]) if scale in own else None
    return InputSide(own.get(f"{prefix}shift"), norm)
