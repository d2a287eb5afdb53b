"""From a module to a graph of functional ATen operators, by ``torch.export``."""

from __future__ import annotations

import inspect
import logging
import operator
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind

from rebnn_mm.deploy.graph.blocks import BLOCKS, check_blocks, nodes_of
from rebnn_mm.deploy.graph.sizes import ONE_SIZE, needs_one_size, usual_sizes
from rebnn_mm.deploy.graph.traced import InputSpec, Traced
from rebnn_mm.deploy.graph.trial import holds_for_others, within_bounds
from rebnn_mm.errors import UserError

_aten = torch.ops.aten
_DROPOUT = {
    *(_aten.dropout.default, _aten.feature_dropout.default, _aten.alpha_dropout.default),
    *(_aten.dropout_.default, _aten.feature_dropout_.default, _aten.alpha_dropout_.default),
}

# operators that return bools whatever they are given, by how their names begin
_TRUTHS = ("eq", "ne.", "ge.", "gt.", "le.", "lt.", "not_equal", "greater", "less", "logical_")


def capture(
    module: nn.Module,
    inputs: Sequence[Tensor],
    any_size: bool | None = None,
    open_sizes: Sequence[Collection[int]] | None = None,
) -> Traced:
    """Export ``module`` in eval mode, called with ``inputs``.

    The first dimension may always change, and the length of a sequence of integers, (N, L). Height and width of a 4-d
    input, and the length of a sequence of vectors, (N, L, C), may change if ``any_size``. None decides by what the
    network is made of: one with attention, with padding by size, or with code that takes another way for other sizes,
    keeps the size of ``inputs``, all others take any. Where ``open_sizes`` is given, it names instead for each input
    the dimensions that may change besides the first. A module that writes into its inputs gets a graph that does not.

    Raises:
        UserError: ``torch.export`` cannot capture it; the message holds its reason. Or it must take any size and
            computes with the size of its input. Or it changes a buffer of its own.
    """
    module.eval()  # not chained: that of mmdet's distillers returns nothing
    images = any(x.dim() == 4 for x in inputs)
    one_size = needs_one_size(module, inputs) if images and any_size is not False else None
    if one_size and any_size:
        raise UserError(f"{module._get_name()} has {one_size}, which computes with the size of its input: {ONE_SIZE}")
    spatial = any_size is True or (images and any_size is None and not one_size)
    usual = [usual_sizes(x, spatial) for x in inputs]
    sizes = [{0, *places} for places in (usual if open_sizes is None else open_sizes)]
    program = _export(module, inputs, sizes)
    traced = _traced(_functional(module, program))
    if not holds_for_others(program, traced.runnable(), module, inputs, sizes, odd=any_size is None):
        if any_size:
            raise UserError(f"{module._get_name()} takes another way for other sizes of its input: {ONE_SIZE}")
        traced = _traced(_functional(module, _export(module, inputs, [{0} for _ in inputs])))
    traced.inputs = within_bounds(traced.inputs, traced.runnable(), module, inputs)
    for x, spec, places in zip(inputs, traced.inputs, sizes, strict=True):
        if any_size and any(x.shape[place] > 1 and spec.shape[place] is not None for place in places):
            raise UserError(f"{module._get_name()} computes with the size of its input {tuple(x.shape)}: {ONE_SIZE}")
    return traced


def _export(module: nn.Module, inputs: Sequence[Tensor], sizes: Sequence[set[int]]) -> torch.export.ExportedProgram:
    auto = torch.export.Dim.AUTO
    # a size of one is taken for fixed, which torch would say in a warning
    shapes = [
        {place: auto for place in sorted(places) if x.dim() and x.shape[place] != 1}
        for x, places in zip(inputs, sizes, strict=True)
    ]
    with _explained(module), torch.no_grad():
        given = _as_declared(module, shapes)
        program = torch.export.export(module, tuple(inputs), dynamic_shapes=given, strict=False)
        check_blocks(program.graph_module)
    _drop_dropout(program.graph_module)
    return program


def _drop_dropout(module: fx.GraphModule) -> None:
    """Remove dropouts of rate 0 or out of training, in place: they return their input itself, which may be written to.

    What makes a graph functional takes their result for another tensor.
    """
    for node in list(nodes_of(module)):
        if node.target in _DROPOUT and (not node.args[2] or node.args[1] == 0):
            node.replace_all_uses_with(node.args[0])
            node.graph.erase_node(node)
    for part in module.modules():
        if isinstance(part, fx.GraphModule):
            part.recompile()


def _functional(module: nn.Module, program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Without any decomposition this only makes it functional, slowly: needed where a view is written to."""
    with _explained(module), torch.no_grad():
        return program.run_decompositions({}) if _writes_into_views(program.graph_module) else program


@contextmanager
def _explained(module: nn.Module) -> Iterator[None]:
    """Within the block, torch does not warn of its own deprecated pieces, and what it raises becomes a UserError."""
    try:
        with warnings.catch_warnings(), _quiet_shapes():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # what a foreign forward and the exporter raise has no common class
        line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"{module._get_name()} cannot be captured as a graph: {type(error).__name__}: {line}"
        ) from error


def _as_declared(module: nn.Module, shapes: list[Any]) -> tuple[Any, ...]:
    """One entry for each parameter of ``forward``; what ``*inputs`` takes stands together in one."""
    for place, parameter in enumerate(inspect.signature(module.forward).parameters.values()):
        if parameter.kind is parameter.VAR_POSITIONAL:
            return (*shapes[:place], tuple(shapes[place:]))
    return tuple(shapes)


@contextmanager
def _quiet_shapes() -> Iterator[None]:
    """Within the block, torch does not log the pages in which its solver of sizes gives up: they change nothing."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _base(target: Any) -> Any:
    """The operator that does the same as an in-place one on a new tensor; None for any other operator."""
    schema = getattr(target, "_schema", None)
    if schema is None or not schema.is_mutable or not schema.name.endswith("_"):
        return None
    namespace, name = schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name[:-1], None)
    return None if packet is None else getattr(packet, schema.overload_name or "default", None)


def _writes_into_views(module: fx.GraphModule) -> bool:
    """Whether an in-place operator's tensor shares memory with another one, so that more than its name changes."""
    written: set[int] = set()
    for node in nodes_of(module):
        schema = getattr(node.target, "_schema", None)
        if node.op == "call_function" and schema is not None and schema.is_mutable:
            if _base(node.target) is None or node.args[0].op != "call_function":
                return True
            written |= _memory(node)
    owners: dict[int, set[fx.Node]] = {}
    for node in nodes_of(module):
        for place in _memory(node) & written:
            owners.setdefault(place, set()).add(_first(node))
    return any(len(nodes) > 1 for nodes in owners.values())


def _memory(node: fx.Node) -> set[int]:
    """The storages that a node's tensor is in, as ``torch.export`` followed them."""
    value = node.meta.get("val")
    return {value.untyped_storage()._cdata} if isinstance(value, Tensor) and value.layout == torch.strided else set()


def _first(node: fx.Node) -> fx.Node:
    """Behind in-place operators, which return what they were given, the node that made the tensor."""
    while _base(node.target) is not None:
        node = node.args[0]
    return node


def _traced(program: torch.export.ExportedProgram) -> Traced:
    """Turn lifted parameters, buffers and constants into ``get_attr`` nodes, and drop checks of sizes.

    Raises:
        UserError: The module changes a buffer of its own.
    """
    state = {**program.state_dict, **program.constants}
    kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    graph, tensors = fx.Graph(), {}
    env: dict[fx.Node, Any] = {}
    specs: list[InputSpec] = []
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        spec = kinds[node.name]
        if spec.kind is InputKind.USER_INPUT:
            env[node] = graph.placeholder(f"input_{len(specs)}")
            specs.append(_input_spec(node.meta["val"], program))
        else:
            tensors[spec.target] = state[spec.target].detach()
            env[node] = graph.create_node("get_attr", spec.target)
        env[node].meta["val"] = node.meta.get("val")
    flat = _results(_copied(program.graph_module, graph, env), program)
    graph.output(program.call_spec.out_spec.unflatten(flat))
    graph.eliminate_dead_code()
    return Traced(graph, tensors, specs)


def _results(outputs: list[Any], program: torch.export.ExportedProgram) -> list[Any]:
    """What the module returns, of all that its graph does: inputs that it writes into are left as they are."""
    specs = program.graph_signature.output_specs
    for spec in specs:
        if spec.kind not in (OutputKind.USER_OUTPUT, OutputKind.USER_INPUT_MUTATION):
            raise UserError(
                f"its forward changes {spec.target!r}, which it keeps for later calls, and a graph keeps nothing: "
                "do not write to it in evaluation"
            )
    return [value for value, spec in zip(outputs, specs, strict=True) if spec.kind is OutputKind.USER_OUTPUT]


def _copied(module: fx.GraphModule, graph: fx.Graph, env: dict[fx.Node, Any]) -> list[Any]:
    """Copy the calls of ``module`` to ``graph``, and those within blocks, too; the outputs.

    Args:
        module: An exported graph, or a block within it.
        graph: Where the calls are added.
        env: Nodes of ``module`` -> nodes of ``graph``, or values; it has the placeholders, and the calls are added.
    """
    for node in module.graph.nodes:
        if node.op == "output":
            return fx.node.map_arg(list(node.args[0]), lambda n: env[n])
        if node.op == "placeholder" or "_assert" in str(node.target) or "sym_constrain" in str(node.target):
            continue
        if node.op == "get_attr":  # the body of a block
            env[node] = getattr(module, node.target)
        elif node.target in BLOCKS:
            env[node] = _block(node, graph, env)
        elif node.target is operator.getitem and isinstance(env[node.args[0]], list):
            env[node] = env[node.args[0]][node.args[1]]
        else:
            env[node] = graph.node_copy(node, lambda n: env[n])
            if _base(node.target) is not None:
                env[node] = _of_written_type(node, env[node])
                env[node.args[0]] = env[node]  # later readers of the written tensor see what was written
    raise AssertionError("a graph without an output")


def _of_written_type(node: fx.Node, copied: fx.Node) -> fx.Node:
    """``copied``, of the in-place ``node``, as the call on a new tensor, and that in the type of the written tensor.

    ``y.gt_(0)`` leaves numbers in ``y``, ``y > 0`` is a bool; an operand of a wider type makes a result of its type.
    """
    copied.target = _base(node.target)
    wanted = node.meta["val"].dtype
    operands = [value.meta.get("val") for value in node.all_input_nodes]
    same = all(value.dtype == wanted for value in operands if isinstance(value, Tensor))
    if same and not str(copied.target).removeprefix("aten.").startswith(_TRUTHS):
        return copied
    value = copied.meta.pop("val")  # it is the written tensor's
    cast = copied.graph.call_function(_aten.to.dtype, (copied, wanted))
    cast.meta["val"] = value
    return cast


def _block(node: fx.Node, graph: fx.Graph, env: dict[fx.Node, Any]) -> list[Any]:
    """Copy the body of a ``with`` block, which changes nothing here: see :func:`check_blocks`."""
    settings = BLOCKS[node.target]
    body, operands = env[node.args[settings]], node.args[settings + 1 :]
    inputs = [inner for inner in body.graph.nodes if inner.op == "placeholder"]
    values = {inner: env[outer] for inner, outer in zip(inputs, operands, strict=True)}
    return _copied(body, graph, values)


def _input_spec(value: Tensor, program: torch.export.ExportedProgram) -> InputSpec:
    shape: list[int | None] = []
    least: list[int] = []
    most: list[int | None] = []
    for place, size in enumerate(value.shape):
        # one that the network made a Python number of is a symbol with a fixed value
        known = size if isinstance(size, int) else size.node.maybe_as_int()
        shape.append(known)
        if known is not None:
            least.append(known)
            most.append(None)
            continue
        bounds = program.range_constraints.get(size.node.expr)
        low, high = (1, None) if bounds is None else (int(bounds.lower), bounds.upper)
        # torch.export treats 0 and 1 as special and starts at 2; a batch may be empty
        least.append(low if low > 2 else min(place, 1))
        most.append(int(high) if getattr(high, "is_Integer", False) else None)  # else infinity
    return InputSpec(str(value.dtype).removeprefix("torch."), tuple(shape), tuple(least), tuple(most))
