"""What an export made of each layer: a table of bytes before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from rebnn_mm.analysis.opcount import LayerCount, count_bytes
from rebnn_mm.deploy.format import BinaryTensor
from rebnn_mm.deploy.verify import TOLERANCE, Difference


@dataclass(frozen=True)
class LayerSize:
    """One module's own tensors.

    Attributes:
        name: Dotted name in the model.
        kind: Class name.
        precision: ``'1-bit'`` if its weight is, else ``'real'``.
        before: Bytes in the checkpoint's weights.
        after: Bytes in the file.
    """

    name: str
    kind: str
    precision: str
    before: int
    after: int


@dataclass(frozen=True)
class ExportReport:
    """What :func:`rebnn_mm.deploy.export_model` wrote; ``str()`` of it is a table.

    Attributes:
        layers: Convolutions and linear layers, in the model's order.
        others: The other modules that hold tensors.
        size: Bytes of the whole file, header and alignment included.
        float16: Largest relative change by 16-bit weights, of ``weights`` and ``outputs``; None without them.
        checked: Inputs on which the packed model was compared with the trained one.
        differences: Outputs in which it differs, by rounding in real-valued parts, see :mod:`rebnn_mm.deploy.verify`.
    """

    layers: tuple[LayerSize, ...]
    others: tuple[LayerSize, ...]
    size: int
    float16: dict[str, float | None] | None
    checked: int
    differences: tuple[Difference, ...] = ()

    @property
    def before(self) -> int:
        """Bytes of the trained weights."""
        return sum(row.before for row in (*self.layers, *self.others))

    def __str__(self) -> str:
        kinds: dict[str, list[LayerSize]] = {}
        for row in self.others:
            kinds.setdefault(row.kind, []).append(row)
        rows = [("layer", "precision", "bytes before", "bytes after")]
        rows += [(row.name, row.precision, f"{row.before:,}", f"{row.after:,}") for row in self.layers]
        for kind, group in kinds.items():
            sums = (f"{sum(row.before for row in group):,}", f"{sum(row.after for row in group):,}")
            rows.append((f"({len(group)} x {kind})", "real", *sums))
        tensors = sum(row.after for row in (*self.layers, *self.others))
        rows.append(("(header, alignment)", "", "0", f"{self.size - tensors:,}"))
        rows.append(("total", "", f"{self.before:,}", f"{self.size:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join((cell.ljust, cell.rjust)[i > 1](w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
            for row in rows
        ]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], "", *self._notes()])

    def _notes(self) -> list[str]:
        binary = [row for row in self.layers if row.precision == "1-bit"]
        largest = max((row for row in (*self.layers, *self.others)), key=lambda row: row.after)
        notes = [
            f"{len(binary)} of {len(self.layers)} layers are 1-bit; the file is {self.before / self.size:.1f}x smaller",
            f"1-bit layers take {sum(row.after for row in binary) / self.size:.0%} of it; the largest single part is "
            f"{largest.name} ({largest.precision}) with {largest.after / self.size:.0%}",
        ]
        if self.float16:
            outputs = self.float16["outputs"]
            said = "not measured" if outputs is None else f"{outputs:.2g}"
            notes.append(
                f"float16: largest change of a weight {self.float16['weights']:.2g}, of an output {said}, relative to "
                "the largest value"
            )
        if self.differences:
            notes += self._rounding()
        elif self.checked:
            notes.append(f"packed and trained model gave the same bits on {self.checked} inputs")
        else:
            notes.append("NOT compared with the trained model")
        return notes

    def _rounding(self) -> list[str]:
        notes = [
            f"compared on {self.checked} inputs: 1-bit layers give the trained model's bits for the same input, "
            f"real-valued parts agree within {TOLERANCE:g} of their largest value. Outputs that differ:"
        ]
        for one in self.differences:
            turned = " - rounding turned a sign, or a choice between values" if one.relative > TOLERANCE else ""
            notes.append(f"  {one}{turned}")
        return [*notes, "export with --exact (exact=True) to refuse any difference"]


def size_report(
    model: nn.Module,
    tensors: Mapping[str, Tensor | BinaryTensor],
    size: int,
    float16: dict[str, float | None] | None,
    checked: int,
    differences: tuple[Difference, ...] = (),
) -> ExportReport:
    """Compare a trained model with the tensors of its file; the numbers and ``differences`` as in the report."""
    after: dict[str, int] = {}
    binary = set()
    for name, tensor in tensors.items():
        module = name.rpartition(".")[0] or "(model)"
        data = tensor.packed if isinstance(tensor, BinaryTensor) else tensor
        after[module] = after.get(module, 0) + data.numel() * data.element_size()
        if isinstance(tensor, BinaryTensor):
            binary.add(module)
    count = count_bytes(model)

    def row_of(part: LayerCount) -> LayerSize:
        precision = "1-bit" if part.name in binary else "real"
        return LayerSize(part.name, part.kind, precision, part.bytes_trained, after.get(part.name, 0))

    layers, others = tuple(map(row_of, count.layers)), tuple(map(row_of, count.others))
    return ExportReport(layers, others, size, float16, checked, differences)
