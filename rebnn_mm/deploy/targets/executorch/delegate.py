"""The delegate of 1-bit layers and some real-valued ones: each operator becomes a blob for ``runtime/``.

A delegate and not an operator with an out variant: the run-time makes a layer's plan when the program is loaded and
frees it with the program. An operator would keep plans by the address of its weight, and give another network's
results once that memory is another network's.
"""

from __future__ import annotations

from typing import Any

from executorch.exir.backend.backend_details import BackendDetails, PreprocessResult
from executorch.exir.backend.partitioner import DelegationSpec, Partitioner, PartitionResult
from executorch.exir.backend.utils import tag_constant_data
from torch import Tensor, fx
from torch._export import utils as lifted
from torch.export import ExportedProgram

from rebnn_mm.deploy.graph.unit import LINEAR, LINEAR_BOTH
from rebnn_mm.deploy.operation.spec import ConvSpec
from rebnn_mm.deploy.operation.steps import sides_of
from rebnn_mm.deploy.targets.executorch.blob import Places, write_blob, write_nearest_blob, write_real_blob
from rebnn_mm.deploy.targets.executorch.operators import BOTH, NEAREST, REAL, is_ours, operator_of

_ARGUMENTS = ("x", "bits", "geometry", "tensors", "names", "residual", "clamp", "residual_last", "signs")
_PLAIN = Places(0, None, 1, None, 2)  # one input, and floats


class RebnnPartitioner(Partitioner):
    """One partition for each operator."""

    def partition(self, exported_program: ExportedProgram) -> PartitionResult:
        """Tag them."""
        tags = {}
        for number, node in enumerate(filter(is_ours, exported_program.graph.nodes)):
            tag = f"rebnn_{number}"
            tags[tag] = DelegationSpec(RebnnBackend.__name__, [])
            for part in (node, *(node.users if operator_of(node) in BOTH else ())):
                part.meta["delegation_tag"] = tag
        tag_constant_data(exported_program)
        return PartitionResult(tagged_exported_program=exported_program, partition_tags=tags)


class RebnnBackend(BackendDetails):
    """Its name is the one that the run-time registers."""

    @staticmethod
    def preprocess(edge_program: ExportedProgram, compile_specs: list[Any]) -> PreprocessResult:
        """The blob of the one operator in ``edge_program``."""
        (node,) = filter(is_ours, edge_program.graph.nodes)
        write = {REAL: _real_blob, NEAREST: _nearest_blob}.get(operator_of(node), _binary_blob)
        return PreprocessResult(processed_bytes=write(edge_program, node))


def _real_blob(program: ExportedProgram, node: fx.Node) -> bytes:
    arguments: Any = node.args
    weight, scale, offset = (_constant(program, constant) for constant in arguments[1:4])
    geometry, (low, high), max_pool = arguments[4:7]
    return write_real_blob(weight, ConvSpec.from_ints(geometry), (scale, offset), (low, high), max_pool, _PLAIN)


def _nearest_blob(_: ExportedProgram, node: fx.Node) -> bytes:
    arguments: Any = node.args
    x, times = arguments
    return write_nearest_blob(x.meta["val"].shape[1], tuple(times), _PLAIN)


def _binary_blob(program: ExportedProgram, node: fx.Node) -> bytes:
    given: dict[str, Any] = {**dict(zip(_ARGUMENTS, node.args, strict=False)), **node.kwargs}
    both, linear = operator_of(node) in BOTH, operator_of(node) in (LINEAR, LINEAR_BOTH)
    names = str(given["names"]).split()
    tensors = {n: _constant(program, t) for n, t in zip(names, given["tensors"], strict=True)}
    signs = both or bool(given.get("signs", False))
    sides = sides_of(tensors, given.get("clamp"), bool(given.get("residual_last", False)), signs, both or not signs)
    return write_blob(
        _constant(program, given["bits"]),
        ConvSpec.from_ints(given["geometry"]),
        *sides,
        _places(program, node, given, both, signs),
        linear,
        not given["x"].meta["val"].is_floating_point(),
    )


def _places(program: ExportedProgram, node: fx.Node, given: dict[str, Any], both: bool, signs: bool) -> Places:
    """Inputs in the order of the placeholders, then the results in that of the output."""
    inputs = [n for n in program.graph.nodes if n.op == "placeholder" and not _is_constant(program, n)]
    (output,) = [n for n in program.graph.nodes if n.op == "output"]
    results = list(output.args[0])
    residual = given.get("residual")
    if both:
        by_index = {n.args[1]: len(inputs) + results.index(n) for n in node.users if n in results}
        floats_at, signs_at = by_index.get(0), by_index.get(1)
    else:
        floats_at, signs_at = (None, len(inputs)) if signs else (len(inputs), None)
    return Places(
        inputs.index(given["x"]),
        None if residual is None else inputs.index(residual),
        floats_at,
        signs_at,
        len(inputs) + len(results),
    )


def _constant(program: ExportedProgram, node: fx.Node) -> Tensor:
    for kind, get in (
        (lifted.is_param, lifted.get_param),
        (lifted.is_buffer, lifted.get_buffer),
        (lifted.is_lifted_tensor_constant, lifted.get_lifted_tensor_constant),
    ):
        if kind(program, node):
            value = get(program, node)
            assert isinstance(value, Tensor)
            return value.detach().contiguous()
    raise AssertionError(f"{node} is no constant: the pass own_constants gives each operator its own")


def _is_constant(program: ExportedProgram, node: fx.Node) -> bool:
    tests = (lifted.is_param, lifted.is_buffer, lifted.is_lifted_tensor_constant)
    return any(test(program, node) for test in tests)
