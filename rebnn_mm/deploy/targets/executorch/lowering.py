"""From a module in edge form to the bytes of a program: the one place that calls ExecuTorch's exporter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rebnn_mm.deploy.targets.executorch.placement import Placement, placement_of
from rebnn_mm.deploy.targets.executorch.program_card import METHOD
from rebnn_mm.deploy.targets.executorch.sizes import Sizes
from rebnn_mm.errors import MissingPackageError, UserError

NEEDED = "executorch>=1.5.1,<1.6"


@dataclass(frozen=True)
class Program:
    """A lowered network.

    Attributes:
        data: What ExecuTorch reads.
        placement: Which engine runs what, in all methods together.
        memory: Bytes that are planned for intermediate results; each method has its own.
    """

    data: bytes
    placement: Placement
    memory: int


def check_installed() -> None:
    """Raise MissingPackageError unless ExecuTorch is there."""
    try:
        import executorch.exir  # noqa: F401
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("executorch"):
            raise MissingPackageError(
                f"executorch needs the package {error.name}: pip install '{NEEDED}' brings it"
            ) from error
        raise MissingPackageError(
            f"ExecuTorch is not installed: pip install '{NEEDED}' (or rebnn_mm[executorch])"
        ) from None


def as_taken(x: Tensor) -> Tensor:
    """``x`` in the memory layout that programs take: images channels last, all else plain."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


def lower_methods(
    methods: Mapping[str, tuple[nn.Module, Sequence[Tensor]]],
    card: str,
    allow_slow: bool = False,
    sizes: Sizes | None = None,
) -> Program:
    """Lower modules as methods of one program, each for exactly the sizes of its inputs.

    With ``sizes``, the first takes images of all these instead; memory is planned for the largest.

    The first has the name ``'forward'``. XNNPACK chooses first: with our delegates in front of it, operators that it
    takes whole would be decomposed.

    Raises:
        MissingPackageError: ExecuTorch is not there.
        UserError: It cannot lower a module, or would leave a product of matrices to its portable kernels.
    """
    check_installed()
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    from rebnn_mm.deploy.targets.executorch.delegate import RebnnPartitioner

    try:
        with torch.no_grad(), _quiet():
            exported = {
                name: export_module(module, inputs, sizes if name == "forward" else None)
                for name, (module, inputs) in methods.items()
            }
            edge = to_edge_transform_and_lower(
                exported,
                partitioner=[XnnpackPartitioner()],
                constant_methods={METHOD: card},
                compile_config=EdgeCompileConfig(_check_ir_validity=False),
            ).to_backend(RebnnPartitioner())
            lowered = [edge.exported_program(name) for name in methods]
            placement = placement_of([(program.graph, program.graph_module) for program in lowered])
            if not allow_slow:
                placement.check()
            program = edge.to_executorch()
    except UserError:
        raise
    except Exception as error:  # what the exporter raises has no common class
        cause = error.__cause__ or error
        line = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise UserError(f"ExecuTorch cannot lower this network: {type(cause).__name__}: {line}") from error
    plans = [plan for plan in program.executorch_program.execution_plan if plan.name in methods]
    return Program(bytes(program.buffer), placement, sum(sum(plan.non_const_buffer_sizes) for plan in plans))


def export_module(module: nn.Module, inputs: Sequence[Tensor], sizes: Sizes | None) -> torch.export.ExportedProgram:
    """What ``torch.export`` makes of a module, for these inputs or, with ``sizes``, for images of all these."""
    given = tuple(map(as_taken, inputs))
    shapes = None if sizes is None else (tuple(sizes.dims() if x.dim() == 4 else {} for x in given),)
    return torch.export.export(module, given, dynamic_shapes=shapes, strict=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block, ExecuTorch's and torch's own warnings and log lines stay away."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
