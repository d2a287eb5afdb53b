"""The tensors of a file, each handed out only if it is what the network expects."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from rebnn_mm.deploy.file.container import PackedFile, RebnnFileError
from rebnn_mm.deploy.file.tensors import BinaryTensor, Stored
from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.deploy.graph.record import scale_name
from rebnn_mm.deploy.operation.bits import from_bits
from rebnn_mm.deploy.operation.int8 import QuantizedTensor

Tensors = dict[str, Stored]


def graphs_of(file: PackedFile) -> dict[str, Any]:
    """The graph records of a file, by the names of the parts.

    Raises:
        RebnnFileError: They are malformed.
    """
    graphs = file.info.get("graphs", {})
    if not isinstance(graphs, dict):
        raise RebnnFileError(f"the file's graphs are a {type(graphs).__name__}, not a dict")
    return graphs


class Weights:
    """Tensors below a dotted prefix. Every tensor must be taken once: see :meth:`check_all_used`.

    Args:
        file: From :func:`rebnn_mm.deploy.file.container.read_file`.

    Raises:
        RebnnFileError: It shares tensors that it does not hold.
    """

    def __init__(self, file: PackedFile) -> None:
        self._tensors = {**file.tensors, **_shared(file)}
        self._stored = tuple(file.tensors)
        self._prefix = ""
        self._used: set[str] = set()

    def at(self, name: str) -> Weights:
        """The tensors below ``name``."""
        below = copy.copy(self)
        below._prefix = f"{self._prefix}{name}." if name else self._prefix
        return below

    def real(self, name: str, *shape: int) -> Tensor:
        """A real-valued tensor of ``shape``, as float32.

        Raises:
            RebnnFileError: It is not there, not real-valued, or of another shape.
        """
        tensor = self._take(name, shape, "real-valued")
        assert not isinstance(tensor, BinaryTensor)
        return tensor.dequantize() if isinstance(tensor, QuantizedTensor) else tensor.float()

    def alpha(self, channels: int) -> Tensor:
        """A layer's scale, (channels,); earlier files hold it as (channels, 1, ...). Raises as :meth:`real`."""
        stored = self._tensors.get(f"{self._prefix}alpha")
        around = 0 if stored is None else len(stored.shape) - 1
        return self.real("alpha", channels, *[1] * around).flatten()

    def eight_bits(self, name: str, *shape: int) -> QuantizedTensor | None:
        """A real-valued tensor of ``shape`` that the file holds in 8 bits; None if it holds no such one of this name.

        Raises as :meth:`real`.
        """
        if not isinstance(self._tensors.get(self._prefix + name), QuantizedTensor):
            return None
        tensor = self._take(name, shape, "real-valued")
        assert isinstance(tensor, QuantizedTensor)
        return tensor

    def integer(self, name: str, *shape: int) -> Tensor:
        """An integer tensor of ``shape``; raises as :meth:`real`."""
        tensor = self._take(name, shape, "integer")
        assert isinstance(tensor, Tensor)
        return tensor

    def bits(self, name: str, *shape: int) -> Tensor:
        """Bits of a binary weight of ``shape``, see :mod:`rebnn_mm.deploy.operation.bits`; raises as :meth:`real`."""
        tensor = self._take(name, shape, "1-bit")
        assert isinstance(tensor, BinaryTensor)
        return tensor.bits

    def binary(self, name: str, *shape: int) -> Tensor:
        """A binary weight of ``shape`` as float32 in {-1, +1}; raises as :meth:`real`."""
        return from_bits(self.bits(name, *shape), shape)

    def norm(self, name: str, channels: int) -> tuple[Tensor, Tensor]:
        """(scale, offset) of a folded batch norm, ``fma(x, scale, offset)``; raises as :meth:`real`."""
        return self.real(f"{name}.scale", channels), self.real(f"{name}.offset", channels)

    def network(self, record: Any, exact: bool) -> GraphNetwork:
        """The network of a graph record, from the tensors below this prefix; raises RebnnFileError as it does."""
        below = [name for name in self._tensors if name.startswith(self._prefix)]
        own: dict[str, Tensor] = {}
        for name in below:
            own |= _values(name.removeprefix(self._prefix), self._tensors[name])
        network = GraphNetwork(record, own, exact)
        self._used.update(self._prefix + name for name in network.tensor_names)
        return network

    def check_all_used(self) -> None:
        """Raise RebnnFileError if the file holds tensors that nobody asked for: it is of another network."""
        rest = [name for name in self._stored if name not in self._used]
        if rest:
            raise RebnnFileError(f"the file holds {len(rest)} tensors that its network has no place for: {rest[0]!r}")

    def _take(self, name: str, shape: tuple[int, ...], kind: str) -> Stored:
        full = self._prefix + name
        tensor = self._tensors.get(full)
        if tensor is None or _kind(tensor) != kind or tuple(tensor.shape) != shape:
            found = "is missing" if tensor is None else f"is a {_kind(tensor)} tensor of shape {tuple(tensor.shape)}"
            raise RebnnFileError(f"{full!r} {found}; the network needs a {kind} one of shape {shape}")
        self._used.add(full)
        return tensor


def _shared(file: PackedFile) -> Tensors:
    """Tensors that the file holds under another name: two graphs may share a weight."""
    names = file.info.get("shared", {})
    if not isinstance(names, dict):
        raise RebnnFileError(f"the file's shared tensors are a {type(names).__name__}, not a dict")
    for name, other in names.items():
        if name in file.tensors or not isinstance(other, str) or other not in file.tensors:
            raise RebnnFileError(f"the file's {name!r} is to be {other!r}, which does not fit its tensors")
    return {name: file.tensors[other] for name, other in names.items()}


def _values(name: str, tensor: Stored) -> dict[str, Tensor]:
    """What a graph is given: bits and 8-bit weights as they are stored, 16-bit floats as float32."""
    if isinstance(tensor, BinaryTensor):
        return {name: tensor.bits}
    if isinstance(tensor, QuantizedTensor):
        return {name: tensor.values, scale_name(name): tensor.scale}
    return {name: tensor.float() if tensor.is_floating_point() else tensor}


def _kind(tensor: Stored) -> str:
    if isinstance(tensor, BinaryTensor):
        return "1-bit"
    if isinstance(tensor, QuantizedTensor):
        return "real-valued"
    return "real-valued" if tensor.is_floating_point() else "integer"
