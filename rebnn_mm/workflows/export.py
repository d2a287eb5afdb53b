"""Config and checkpoint -> ``.rebnn`` file, for mmdet, mmpretrain and BERT alike."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

import rebnn_mm
from rebnn_mm.deploy.export import Check, export_model
from rebnn_mm.deploy.file.card import ModelCard, Preprocessing
from rebnn_mm.deploy.file.container import read_file
from rebnn_mm.deploy.graph.parts import Part
from rebnn_mm.deploy.load import load_model
from rebnn_mm.deploy.report import ExportReport
from rebnn_mm.deploy.targets import TARGETS, check_options, convert_file, target_of
from rebnn_mm.errors import UserError
from rebnn_mm.files.atomic import refuse_same_file
from rebnn_mm.integrations.build import build_model, read_config
from rebnn_mm.integrations.checkpoint import load_weights
from rebnn_mm.integrations.config import scope_of
from rebnn_mm.integrations.images.pipeline import channel_order, image_channels, preprocessor_of, turns_channels
from rebnn_mm.integrations.origin import load_trained
from rebnn_mm.integrations.outputs import outputs
from rebnn_mm.integrations.packed import load_packed_model
from rebnn_mm.layers import binary_layers
from rebnn_mm.progress import step
from rebnn_mm.workflows.detector_parts import detector_parts
from rebnn_mm.workflows.inference import dataset_meta
from rebnn_mm.workflows.inspection import image_shape, input_shape

# hooks that belong to a method, so that a file's card names them
_METHOD_HOOKS = ("BalanceHook", "EDEHook", "ReCUHook")


def export_config(
    cfg: Config,
    checkpoint: str | Path,
    path: str | Path,
    float16: bool = False,
    verify: bool = True,
    metrics: dict[str, float] | None = None,
    exact: bool = False,
    int8: bool = False,
) -> ExportReport:
    """Write the trained model to ``path``, with its config, class names, preprocessing and origin.

    Args:
        cfg: From :func:`rebnn_mm.integrations.build.read_config`.
        checkpoint: Weights trained with it.
        path: The file to write.
        float16: As for :func:`rebnn_mm.deploy.export_model`.
        verify: Compare with the trained model on two noise images, of the config's size and of an odd one, or on two
            batches of random tokens, and refuse to write a file that differs by more than
            :mod:`rebnn_mm.deploy.verify` allows.
        metrics: What the trained model was measured at, to be stored.
        exact: Allow no difference in any output.
        int8: As for :func:`rebnn_mm.deploy.export_model`.

    Raises:
        FileNotFoundError: No such checkpoint or folder.
        ValueError: A checkpoint that does not fit; a model without 1-bit layers, or that a file cannot hold, or that
            differs when packed.
        TypeError: The config holds objects that are no plain values.
    """
    step("building the model")
    weights = load_weights(checkpoint)
    model = build_model(cfg)
    load_trained(model, weights, checkpoint, cfg)
    card = ModelCard(
        config=cfg.to_dict(),
        classes=tuple(dataset_meta(weights, cfg).get("classes") or ()) or None,
        preprocessing=preprocessing_of(cfg, model),
        method=method_of(cfg, model),
        source_commit=source_commit(),
        metrics=metrics,
    )
    check = None
    if verify and scope_of(cfg) == "mmengine":
        check = Check(noise_tokens(cfg), lambda part, inputs: part(inputs), load_packed_model, exact)
    elif verify:
        rgb = channel_order(cfg, "test") == "rgb"
        check = Check(
            noise_images(cfg, image_channels(cfg, model)),
            lambda part, image: outputs(part, image, scope_of(cfg), rgb),
            load_model,
            exact,
            chosen=("chosen",),
        )
    return export_model(model, path, card, check, float16, parts_of(cfg, model), int8)


@dataclass(frozen=True)
class ExportOptions:
    """How a config and a checkpoint are packed; see :func:`export_config`.

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
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise UserError(f"--metric {name}={value}: a number is needed, as --metric {name}=0.75")


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
        ValueError: Anything else as a source; what :func:`export_config` and the target's exporter refuse. Options and
            the place of ``out`` are checked before the network is read.
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


def parts_of(cfg: Config, model: nn.Module) -> list[Part]:
    """What of a model is stored as graphs: a classifier or BERT as a whole, of a detector its parts."""
    if scope_of(cfg) == "mmengine":
        from rebnn_mm.integrations.bert import NET_INPUTS

        tokens = noise_tokens(cfg)[0]
        inputs = [tokens[name] for name in NET_INPUTS]
        return [Part("net", inputs, lambda net, *inputs: net(*inputs).logits, whole="network")]
    model.eval()
    channels = image_channels(cfg, model)
    if scope_of(cfg) == "mmpretrain":
        try:
            size = image_shape(cfg)
        except ValueError:
            size = (64, 64)
        x = _normalized(model, noise(size, 2, channels), None)
        with torch.no_grad():
            scores = model(x, mode="tensor")
        if isinstance(scores, Tensor) and scores.dim() == 2:
            return [Part("", [x], lambda whole, x: whole(x, mode="tensor"), whole="classifier")]
        return [Part("backbone", [x])]
    return detector_parts(model, noise((128, 160), 2, channels))


def _normalized(model: nn.Module, images: Tensor, samples: list[Any] | None) -> Tensor:
    return model.data_preprocessor(dict(inputs=list(images), data_samples=samples), False)["inputs"]


def preprocessing_of(cfg: Config, model: nn.Module | None = None) -> Preprocessing | None:
    """What the config's data preprocessor does to an image of a model; None for texts.

    Without normalization mean and std are empty. One mean for several channels is written once for each.
    """
    if scope_of(cfg) == "mmengine":
        return None
    part, channels = preprocessor_of(cfg), image_channels(cfg, model)
    mean, std = (tuple(part.get(key) or ()) for key in ("mean", "std"))
    if len(mean) == len(std) == 1:
        mean, std = mean * channels, std * channels
    try:
        size = image_shape(cfg)
    except ValueError:
        size = None
    if channels != 3:
        order = "rgb"  # no colours to exchange: channels are taken as they come
    else:
        order = channel_order(cfg, "test")
        order = {"rgb": "bgr", "bgr": "rgb"}[order] if turns_channels(cfg) else order
    return Preprocessing(mean, std, order, size)


def method_of(cfg: Config, model: nn.Module) -> str:
    """Kinds of 1-bit layers and their hook's options, as ``'ReBNNConv2d; BalanceHook(magnitude=weight)'``."""
    kinds = sorted({type(layer).__name__ for layer in binary_layers(model).values()})
    hooks = [dict(hook) for hook in cfg.get("custom_hooks") or () if hook.get("type") in _METHOD_HOOKS]
    said = [f"{hook['type']}({', '.join(f'{k}={v}' for k, v in hook.items() if k != 'type')})" for hook in hooks]
    return "; ".join([*kinds, *said])


def source_commit() -> str | None:
    """Commit of the checkout that this package is imported from; None if it is installed or git is missing."""
    folder = Path(rebnn_mm.__file__).parent
    try:
        # of a package within somebody else's repository, git would give their commit
        subprocess.run(
            ["git", "-C", folder, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True
        )
        head = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip()


def noise_tokens(cfg: Config) -> list[Any]:
    """Two batches for BERT: a full sequence beside a padded one, and short ones of odd lengths."""
    from rebnn_mm.integrations.bert import token_noise

    (longest,) = input_shape(cfg)
    return [token_noise(cfg.model, lengths) for lengths in ((longest, longest // 2 + 1), (5, 7, 1))]


def noise_images(cfg: Config, channels: int = 3) -> list[Tensor]:
    """Two images, (channels, H, W) uint8, of the pipelines' size and of about half of it, with odd sides."""
    try:
        height, width = image_shape(cfg)
    except ValueError:
        height, width = 32, 32
    return [noise(size, 1, channels)[0] for size in ((height, width), (height // 2 | 1, width // 2 | 1))]


def noise(size: tuple[int, int], batch: int = 1, channels: int = 3) -> Tensor:
    """Images of noise, (batch, channels, H, W) uint8, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, channels, *size), generator=generator, dtype=torch.uint8)
