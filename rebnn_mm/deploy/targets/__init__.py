"""The formats that a packed network is written in, each with its options: .rebnn, ONNX, OpenVINO, ExecuTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rebnn_mm.deploy.file.container import read_file
from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import check_results_file, refuse_same_file, write_bytes
from rebnn_mm.progress import step


@dataclass(frozen=True)
class Target:
    """One engine's file.

    Attributes:
        suffix: How its files' names end.
        options: Names of what ``write`` takes besides the two paths.
        write: ``write(path of a .rebnn file, path to write, **options)``; what it returns is printed. It imports the
            engine's package itself, so that the others need not be installed.
        check_ready: ``check_ready(path to write)`` refuses, before any work, what ``write`` would refuse at its end: a
            place that cannot be written, an ending that does not fit, a package that is missing.
    """

    suffix: str
    options: tuple[str, ...]
    write: Callable[..., Any]
    check_ready: Callable[[Path], None]


def _rebnn(source: Path, out: Path) -> None:
    read_file(source)  # says what is wrong with it
    write_bytes(out, source.read_bytes())


def _onnx_ready(out: Path) -> None:
    from rebnn_mm.deploy.targets.onnx.export import check_installed

    check_installed()
    check_results_file(out)


def _onnx(source: Path, out: Path, **options: Any) -> Any:
    from rebnn_mm.deploy.targets.onnx import export_onnx

    return export_onnx(source, out, **options)


def _openvino_ready(out: Path) -> None:
    from rebnn_mm.deploy.targets.openvino.export import check_packages, checked_name

    check_packages()
    check_results_file(checked_name(out))


def _openvino(source: Path, out: Path, **options: Any) -> Any:
    from rebnn_mm.deploy.targets.openvino import export_openvino

    return export_openvino(source, out, **options)


def _executorch_ready(out: Path) -> None:
    from rebnn_mm.deploy.targets.executorch.lowering import check_installed

    check_installed()
    check_results_file(out)


def _executorch(source: Path, out: Path, int8_rest: Any = (), **options: Any) -> Any:
    from rebnn_mm.deploy.targets.executorch.export import export_executorch

    return export_executorch(source, out, calibrate=int8_rest, **options)


TARGETS = dict(
    rebnn=Target(".rebnn", (), _rebnn, check_results_file),
    onnx=Target(".onnx", ("form", "part"), _onnx, _onnx_ready),
    openvino=Target(".xml", ("part", "size", "length", "verify"), _openvino, _openvino_ready),
    executorch=Target(
        ".pte",
        ("size", "length", "allow_slow", "int8_linear", "int8_rest", "verify"),
        _executorch,
        _executorch_ready,
    ),
)


def target_of(out: str | Path, name: str | None = None, otherwise: str | None = None) -> str:
    """The target's name, from ``name`` or from how ``out`` ends, or ``otherwise`` for a name without an ending.

    Raises:
        UserError: No target of this name; an ending that no target has, or that is another target's than ``name``.
    """
    suffixes = {target.suffix: own for own, target in TARGETS.items()}
    suffix = Path(out).suffix
    if name is None:
        if not suffix and otherwise is not None:
            return otherwise
        if suffix not in suffixes:
            raise UserError(
                f"{out}: say what to write with --to {'|'.join(TARGETS)}, or end it in {', '.join(suffixes)}"
            )
        return suffixes[suffix]
    if name not in TARGETS:
        raise UserError(f"--to {name}: one of {', '.join(TARGETS)}")
    if suffixes.get(suffix, name) != name:
        raise UserError(
            f"{out} ends as a file of {suffixes[suffix]} does, and --to {name} writes {TARGETS[name].suffix}"
        )
    return name


def check_options(name: str, options: dict[str, Any]) -> None:
    """Raise UserError for an option, other than None, that is another target's."""
    foreign = [key for key, value in options.items() if value is not None and key not in TARGETS[name].options]
    if foreign:
        words = ", ".join(f"--{key.replace('_', '-')}" for key in foreign)
        raise UserError(f"--to {name} has no {words}; it takes {', '.join(TARGETS[name].options) or 'no option'}")


def convert_file(source: str | Path, out: str | Path, to: str | None = None, **options: Any) -> Any:
    """Write the network of a ``.rebnn`` file for another engine; what the engine's exporter reports.

    Args:
        source: A ``.rebnn`` file.
        out: The file to write.
        to: One of :data:`TARGETS`; None goes by the ending of ``out``.
        options: Those of the target; None is the target's default.

    Raises:
        UserError: No such target, or an option that is another target's; a place that cannot be written; what the
            target's exporter refuses.
    """
    name = target_of(out, to)
    check_options(name, options)
    refuse_same_file(source, out)
    TARGETS[name].check_ready(Path(out))
    given = {key: value for key, value in options.items() if value is not None}
    step(f"writing for {name}")
    return TARGETS[name].write(Path(source), Path(out), **given)
