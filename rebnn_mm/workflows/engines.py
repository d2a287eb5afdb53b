"""A trained or a packed network, written for an engine: what is asked for is checked before the network is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rebnn_mm.checks import check_number
from rebnn_mm.deploy.file.card import ModelCard
from rebnn_mm.deploy.file.container import read_file
from rebnn_mm.deploy.targets import TARGETS, check_options, convert_file, target_of
from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import refuse_same_file
from rebnn_mm.integrations.build import read_config
from rebnn_mm.workflows.export import export_config


@dataclass(frozen=True)
class ExportOptions:
    """How a config and a checkpoint are packed; see :func:`rebnn_mm.workflows.export.export_config`.

    Attributes:
        cfg_options: Overrides of the config, by dotted key.

    Raises:
        UserError: A metric that is no number.
    """

    cfg_options: dict[str, Any] | None = None
    float16: bool = False
    verify: bool = True
    metrics: dict[str, float] | None = None
    exact: bool = False
    int8: bool = False

    def __post_init__(self) -> None:
        for name, value in (self.metrics or {}).items():
            check_number(f"--metric {name}", value, hint=f", as --metric {name}=0.75")


def export_to(
    source: Sequence[str | Path],
    out: str | Path,
    to: str | None = None,
    options: ExportOptions | None = None,
    engine: dict[str, Any] | None = None,
) -> list[Any]:
    """Write a trained or a packed network for an engine; the reports of the steps, to be printed.

    Args:
        source: A config and a checkpoint, or a ``.rebnn`` file.
        out: The file to write.
        to: One of :data:`rebnn_mm.deploy.targets.TARGETS`; None goes by the ending of ``out``; without an ending it
            is a ``.rebnn`` file of a config and a checkpoint.
        options: For a config and a checkpoint; of a ``.rebnn`` file only ``verify`` is asked for.
        engine: Options of the target, by name; None is its default. ``part='boxes'`` is a detector whole
            (:func:`rebnn_mm.workflows.boxes.export_boxes`, :func:`rebnn_mm.integrations.executorch.export_detector`).

    Raises:
        ValueError: Anything else as a source; what :func:`rebnn_mm.workflows.export.export_config` and the target's
            exporter refuse. Options and the place of ``out`` are checked before the network is read.
    """
    if len(source) not in (1, 2):
        raise UserError(f"export takes a config and a checkpoint, or one .rebnn file, and got {len(source)} names")
    for read in source:
        refuse_same_file(read, out)
    options, engine = options or ExportOptions(), dict(engine or {})
    name = target_of(out, to, otherwise="rebnn" if len(source) == 2 else None)
    if ("verify" in TARGETS[name].options or engine.get("part") == "boxes") and not options.verify:
        engine["verify"] = False
    _check_engine(name, engine)
    TARGETS[name].check_ready(Path(out))
    if len(source) == 1:
        if options != ExportOptions(verify=options.verify):
            raise UserError(f"{source[0]} is packed already: it takes no option for a config and a checkpoint")
        return _without_none([_converted(source[0], out, name, engine)])
    cfg = read_config(source[0], options.cfg_options)
    packing = (options.float16, options.verify, options.metrics, options.exact, options.int8)
    with TemporaryDirectory() as folder:  # a .rebnn file comes out whole or not at all
        packed = Path(out) if name == "rebnn" else Path(folder) / "packed.rebnn"
        reports = [export_config(cfg, source[1], packed, *packing)]
        if name != "rebnn" or any(value is not None for value in engine.values()):
            reports.append(_converted(packed, out, name, engine))
    return _without_none(reports)


def _check_engine(to: str, engine: dict[str, Any]) -> None:
    """Refuse, before the network is read, options that are not the engine's or exclude each other."""
    if engine.get("part") != "boxes":
        check_options(to, engine)
    elif to == "executorch":
        if (engine.get("size") and engine.get("max_size")) or engine.get("form") or engine.get("length"):
            raise UserError(
                "--part boxes of executorch takes --size H W or --max-size H W or none of them, --allow-slow, "
                "--int8-linear or --int8-rest"
            )
    elif any(engine.get(name) for name in ("max_size", "int8_linear", "int8_rest", "allow_slow", "length")):
        raise UserError(
            "--max-size, --int8-linear, --int8-rest, --allow-slow and --length are for programs of executorch, and "
            f"--part boxes has no --length: give --size H W for {to}"
        )
    else:
        from rebnn_mm.workflows.boxes import checked_size  # as in _converted

        checked_size(to, engine.get("size"))


def _converted(source: str | Path, out: str | Path, to: str, engine: dict[str, Any]) -> Any:
    if engine.get("part") != "boxes":
        return convert_file(source, out, to, **_with_images(source, to, engine))
    if to == "executorch":
        return _detector_program(source, out, engine)
    from rebnn_mm.workflows.boxes import export_boxes  # of all models, only these are mmdet's

    return export_boxes(source, out, to, engine.get("size"), engine.get("form"), engine.get("verify", True))


def _with_images(source: str | Path, to: str, engine: dict[str, Any]) -> dict[str, Any]:
    """The options, with the images of the folder that ``int8_rest`` names in its place."""
    if to != "executorch" or engine.get("int8_rest") is None:
        return engine
    from rebnn_mm.integrations.calibration import calibration_images

    described = ModelCard.from_plain(read_file(source).info).preprocessing
    size = engine.get("size") or (described.size if described else None)
    images = calibration_images(engine["int8_rest"], described, size)
    return {**engine, "int8_rest": [[image] for image in images]}


def _detector_program(source: str | Path, out: str | Path, engine: dict[str, Any]) -> Any:
    """A detector's layers as a program; ``runtime/`` makes boxes of their results."""
    from rebnn_mm.integrations.executorch import export_detector

    most = engine.get("max_size")
    given = engine.get("size") or most
    size = (int(given[0]), int(given[1])) if given else None
    verify, slow = engine.get("verify", True), bool(engine.get("allow_slow"))
    small, images = bool(engine.get("int8_linear")), engine.get("int8_rest")
    return export_detector(source, out, size, verify, slow, smaller=bool(most), int8_linear=small, images=images)


def _without_none(reports: list[Any]) -> list[Any]:
    return [report for report in reports if report is not None]
