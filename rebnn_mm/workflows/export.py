"""Config and checkpoint -> ``.rebnn`` file, for mmdet, mmpretrain and BERT alike."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

import rebnn_mm
from rebnn_mm.deploy.export import Check, export_model
from rebnn_mm.deploy.file.card import ModelCard, Preprocessing
from rebnn_mm.deploy.graph.parts import Part
from rebnn_mm.deploy.load import load_model
from rebnn_mm.deploy.report import ExportReport
from rebnn_mm.integrations.build import build_model
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
