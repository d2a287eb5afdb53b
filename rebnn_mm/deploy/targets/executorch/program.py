"""Running a program in Python, through ExecuTorch's bindings and this package's C++ library."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rebnn_mm.deploy.targets.executorch.file import ProgramFileError, read_program, sealed
from rebnn_mm.deploy.targets.executorch.lowering import as_taken
from rebnn_mm.deploy.targets.executorch.program_card import FORMAT, METHOD
from rebnn_mm.deploy.targets.executorch.sizes import sizes_of
from rebnn_mm.errors import MissingFileError, MissingPackageError, UserError

VARIABLE = "REBNN_RUNTIME"
_TORCH = (2, 13)  # what the bindings of executorch 1.5 need
LIBRARY = "librebnn" + {"darwin": ".dylib"}.get(sys.platform, ".so")
_BUILD = f"build it with 'sh runtime/build.sh build', or name the folder that has it in {VARIABLE}"


def runtime_folder() -> Path:
    """Folder with what ``runtime/`` builds: the environment variable REBNN_RUNTIME, else ``build`` in the repository.

    Raises:
        MissingFileError: The library is not there.
    """
    named = os.environ.get(VARIABLE)
    folder = Path(named) if named else Path(__file__).parents[4] / "build"
    if not (folder / LIBRARY).is_file():
        raise MissingFileError(f"{folder} has no {LIBRARY}, which runs 1-bit layers in ExecuTorch: {_BUILD}")
    return folder


def _no_bindings(why: str) -> str:
    return (
        f"ExecuTorch's Python bindings do not work beside torch {torch.__version__} ({why}): executorch 1.5 needs "
        f"torch {'.'.join(map(str, _TORCH))} or newer; or run the program with runtime's rebnn_run"
    )


@cache
def _bindings() -> Any:
    """ExecuTorch's ``Runtime`` with the delegate of 1-bit layers registered."""
    if tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) < _TORCH:
        raise MissingPackageError(_no_bindings("they load, and give tensors that it cannot use"))
    try:
        # before our library: it brings ExecuTorch's own, which ours shares
        from executorch.extension.pybindings import portable_lib  # noqa: F401
        from executorch.runtime import Runtime
    except ImportError as error:
        raise MissingPackageError(_no_bindings(str(error))) from None
    ctypes.CDLL(str(runtime_folder() / LIBRARY), mode=ctypes.RTLD_GLOBAL)
    return Runtime.get()


class ExecutorchProgram:
    """A program: inputs of its shapes -> the list of its results.

    Args:
        data: The bytes that ExecuTorch reads, without the seal.

    Attributes:
        card: What the exporter wrote about it; see :mod:`rebnn_mm.deploy.targets.executorch.program_card`.
    """

    def __init__(self, data: bytes) -> None:
        program = _bindings().load_program(data)
        if METHOD not in program.method_names:
            raise ProgramFileError("the program has no card: export it with rebnn_mm")
        self._keeps_alive = data, program
        self.card: dict[str, Any] = json.loads(program.load_method(METHOD).execute([])[0])
        if self.card.get("format") != FORMAT:
            raise ProgramFileError("the program's card is of another version: export it again")
        self._specs = {"forward": self.card["inputs"], **self.card.get("methods", {})}
        self._methods = {name: program.load_method(name) for name in self._specs}

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Compute ``forward``; images are taken in any memory layout.

        Raises:
            UserError: An input of another type or shape.
        """
        return self.run("forward", *inputs)

    def run(self, method: str, *inputs: Tensor) -> list[Tensor]:
        """Compute ``forward``, or another of the methods that the card names.

        Raises:
            UserError: No such method; an input of another type or shape.
        """
        if method not in self._specs:
            raise UserError(f"the program has no method {method!r}; it has {', '.join(self._specs)}")
        specs = self._specs[method]
        if len(inputs) != len(specs):
            raise UserError(f"the program takes {len(specs)} inputs, got {len(inputs)}")
        for index, (x, spec) in enumerate(zip(inputs, specs, strict=True)):
            _check_input(index, x, spec)
        try:
            results = self._methods[method].execute([as_taken(x.detach()) for x in inputs])
        except RuntimeError as error:
            raise UserError(f"ExecuTorch cannot run the program: {str(error).splitlines()[0]}") from error
        return [result.clone() for result in results]  # the memory is the program's, until its next call


def _check_input(index: int, x: Tensor, spec: dict[str, Any]) -> None:
    """Raise UserError unless the card's ``spec`` is that of ``x``."""
    shape, dtype, sizes = tuple(spec["shape"]), f"torch.{spec['dtype']}", sizes_of(spec)
    fits = tuple(x.shape) == shape if sizes is None else x.dim() == 4 and x.shape[:2] == shape[:2]
    if str(x.dtype) == dtype and fits and (sizes is None or sizes.takes(x.shape[2:])):
        return
    found = f"input {index} is {x.dtype} {tuple(x.shape)}; the program takes {dtype}"
    if sizes is not None:
        raise UserError(f"{found} {tuple(spec['least'])} to {shape}, height and width multiples of {sizes.multiple}")
    raise UserError(f"{found} {shape} only: for another size export another program, with --size H W or --length N")


def load_executorch(path: str | Path) -> ExecutorchProgram:
    """Load a program for Python.

    Raises:
        MissingFileError: It, or the library of 1-bit layers, is not there.
        ProgramFileError: It is damaged, or of another version.
        MissingPackageError: ExecuTorch is not installed, or its bindings do not work beside this torch.
    """
    return ExecutorchProgram(read_program(path))


def runner_of(data: bytes, method: str = "forward") -> tuple[str, Callable[[Sequence[Tensor]], list[Tensor]]]:
    """(what runs a method, a function of inputs that gives results): the bindings, else the C++ program."""
    try:
        program = ExecutorchProgram(data)
    except MissingPackageError:
        return "rebnn_run", lambda inputs: _run_in_cpp(data, method, inputs)
    return "ExecuTorch's Python bindings", lambda inputs: program.run(method, *inputs)


def _run_in_cpp(data: bytes, method: str, inputs: Sequence[Tensor]) -> list[Tensor]:
    """All results as one flat tensor: the C++ program does not write their shapes."""
    tool = runtime_folder() / "rebnn_run"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.pte").write_bytes(sealed(data))
        command = [str(tool), f"{folder}/model.pte", "--output", f"{folder}/out", "--method", method]
        for index, x in enumerate(inputs):
            (Path(folder) / f"in{index}").write_bytes(x.detach().float().contiguous().numpy().tobytes())
            command += ["--input", f"{folder}/in{index}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"the program does not run: {done.stderr.strip().splitlines()[-1]}")
        return [torch.frombuffer(bytearray((Path(folder) / "out").read_bytes()), dtype=torch.float32)]
