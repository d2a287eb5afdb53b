"""The report of an export: a table of each layer's bytes before and after."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from rebnn_mm.analysis.opcount import LayerCount, count_bytes
from rebnn_mm.deploy.file.tensors import Stored, parts_of
from rebnn_mm.deploy.rounding import precision as precision_of
from rebnn_mm.deploy.verify import TOLERANCE, Difference


@dataclass(frozen=True)
class LayerSize:
    """One module's own tensors.

    Attributes:
        name: Dotted name in the model.
        kind: Class name.
        precision: Of its weight in the file: ``'1-bit'``, ``'int8'``, ``'float16'``, or else ``'real'``.
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
        float16: What 16-bit weights change, as :meth:`rebnn_mm.deploy.rounding.Rounding.change` says it; None without
            them.
        int8: The same for 8-bit weights.
        checked: Inputs on which the packed model was compared with the trained one.
        differences: Outputs in which it differs, by rounding in real-valued parts, see :mod:`rebnn_mm.deploy.verify`.
        graphs: Sentences on what is stored as a graph, and on what could not be.
    """

    layers: tuple[LayerSize, ...]
    others: tuple[LayerSize, ...]
    size: int
    float16: dict[str, Any] | None
    checked: int
    differences: tuple[Difference, ...] = ()
    graphs: tuple[str, ...] = ()
    int8: dict[str, Any] | None = None

    @property
    def before(self) -> int:
        """Bytes of the trained weights."""
        return sum(row.before for row in (*self.layers, *self.others))

    def __str__(self) -> str:
        kinds: dict[tuple[str, str], list[LayerSize]] = {}
        for row in self.others:
            kinds.setdefault((row.kind, row.precision), []).append(row)
        rows = [("layer", "precision", "bytes before", "bytes after")]
        rows += [(row.name, row.precision, f"{row.before:,}", f"{row.after:,}") for row in self.layers]
        for (kind, precision), group in kinds.items():
            sums = (f"{sum(row.before for row in group):,}", f"{sum(row.after for row in group):,}")
            rows.append((f"({len(group)} x {kind})", precision, *sums))
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
        notes += self.graphs
        for kind, change in (("float16", self.float16), ("int8", self.int8)):
            if change:
                notes.append(self._rounded(kind, change))
        if self.differences:
            notes += self._rounding()
        elif self.checked:
            rounded = "trained model with these rounded weights" if self.float16 or self.int8 else "trained model"
            notes.append(f"packed and {rounded} gave the same bits on {self.checked} inputs")
        else:
            notes.append("NOT compared with the trained model")
        return notes

    @staticmethod
    def _rounded(kind: str, change: dict[str, Any]) -> str:
        said = (
            f"{kind}: {change['layers']} real-valued layers and embeddings take {change['bytes_after']:,} bytes, not "
            f"{change['bytes_before']:,}; largest change of a weight {change['weights']:.2g} of the largest one, "
        )
        if change["outputs"] is None:
            return said + "of an output not measured"
        said += f"of an output {change['outputs']:.2g}, against the trained model"
        if not change["decisions"]:
            return said
        return f"{said}; {change['turned']} of {change['decisions']} decisions (largest score of a row, label) turned"

    def _rounding(self) -> list[str]:
        notes = [
            f"compared on {self.checked} inputs: 1-bit layers give the trained model's bits for the same input, "
            f"real-valued parts agree within {TOLERANCE:g} of their largest value. Outputs that differ:"
        ]
        for one in self.differences:
            turned = " - rounding turned a sign, or a choice between values" if one.relative > TOLERANCE else ""
            notes.append(f"  {one}{turned}")
        return notes if self.int8 else [*notes, "export with --exact (exact=True) to refuse any difference"]


def size_report(
    model: nn.Module,
    tensors: Mapping[str, Stored],
    size: int,
    rounding: tuple[str | None, dict[str, Any] | None],
    checked: int,
    differences: tuple[Difference, ...] = (),
    graphs: tuple[str, ...] = (),
    shared: Iterable[str] = (),
) -> ExportReport:
    """Compare a trained model with the tensors of its file.

    ``rounding`` is how and what it changed; ``shared`` names 1-bit weights that the file holds under another name.
    """
    after: dict[str, int] = {}
    precisions = dict.fromkeys((name.rpartition(".")[0] for name in shared), "1-bit")
    for name, tensor in tensors.items():
        module = name.rpartition(".")[0] or "(model)"
        after[module] = after.get(module, 0) + sum(part.numel() * part.element_size() for part in parts_of(tensor))
        if precision_of(tensor) != "real":
            precisions[module] = precision_of(tensor)
    count = count_bytes(model)

    def row_of(part: LayerCount) -> LayerSize:
        precision = precisions.get(part.name, "real")
        return LayerSize(part.name, part.kind, precision, part.bytes_trained, after.get(part.name, 0))

    layers, others = tuple(map(row_of, count.layers)), tuple(map(row_of, count.others))
    changes = {kind: rounding[1] if rounding[0] == kind else None for kind in ("float16", "int8")}
    return ExportReport(layers, others, size, changes["float16"], checked, differences, graphs, changes["int8"])
