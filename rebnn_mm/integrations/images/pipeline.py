"""How a config's pipelines read images: the steps, the files they take, and their channels."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, Registry, init_default_scope
from PIL import Image
from torch import nn

from rebnn_mm.deploy.graph.network import GraphNetwork
from rebnn_mm.errors import UserError
from rebnn_mm.files.images import IMAGE_SUFFIXES
from rebnn_mm.integrations.config import scope_of

# files that are looked for in a folder; a loader of the user's may read arrays, too
SUFFIXES = (*IMAGE_SUFFIXES, ".jfif", ".pbm", ".pnm", ".jp2")
ARRAY_SUFFIXES = (".npy", ".npz")
# formats that Pillow decodes in full, so that what it cannot decode is damaged
_CHECKED_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "WEBP", "PPM", "GIF")


def dataset_of(cfg: Config, split: str) -> Any:
    """The dict of a split's data set itself, within RepeatDataset, ConcatDataset (the first) and their like."""
    node: Any = (cfg.get(f"{split}_dataloader") or {}).get("dataset") or {}
    while not node.get("pipeline") and (node.get("dataset") or node.get("datasets")):
        node = node.get("dataset") or node["datasets"][0]
    return node


def pipeline_of(cfg: Config, split: str) -> Sequence[Any]:
    """The steps of a split's pipeline, as the config writes them; empty without one."""
    return dataset_of(cfg, split).get("pipeline") or []


def without_annotations(steps: Sequence[Any]) -> list[Any]:
    """``steps`` without those that load annotations or proposals, which a file alone does not have."""
    kept = []
    for step in steps:
        if isinstance(step, dict):
            if _loads_annotations(step):
                continue
            inner = step.get("transforms")
            if isinstance(inner, (list, tuple)):
                step = dict(step, transforms=without_annotations(inner))
        elif isinstance(step, (list, tuple)):
            step = without_annotations(step)
        kept.append(step)
    return kept


class Loaded(NamedTuple):
    """What the loader gives for one file: the pipeline's dict, whose key ``img`` is the image, and the steps left."""

    data: dict[str, Any]
    rest: Sequence[Any]

    @property
    def image(self) -> np.ndarray:
        """(H, W) or (H, W, C), of any type, channels in the loader's order."""
        return np.asarray(self.data["img"])


class ImageReader:
    """A split's pipeline for files that no data set lists: its own loader with all its options, no annotations.

    A pipeline without a loader belongs to a data set that hands over arrays (CIFAR-10): files are then read as
    colour images of the order that the data set has, or as grey ones for a model of one channel.

    Args:
        cfg: From :func:`rebnn_mm.integrations.build.read_config`.
        split: ``'train'``, ``'val'`` or ``'test'``.
        channels: Of the model's images, from :func:`image_channels`.

    Attributes:
        order: ``'rgb'`` or ``'bgr'``, of the image that the loader gives.

    Raises:
        ValueError: The split has no pipeline.
    """

    def __init__(self, cfg: Config, split: str = "test", channels: int = 3) -> None:
        steps = without_annotations(pipeline_of(cfg, split))
        if not steps:
            raise UserError(f"the config has no {split}_dataloader with a pipeline: images are prepared by it")
        self.order = order_after(cfg, steps, loader_only=True)
        if not has_loader(cfg, steps):
            loader = LoadImageFromFile(color_type="grayscale" if channels == 1 else "color")
            steps = [loader, *([_flip_channels] if self.order == "rgb" else []), *steps]
        self.steps = _build(cfg, steps)

    def load(self, path: str | Path) -> Loaded:
        """Read one file.

        Raises:
            ValueError: It cannot be decoded, or is cut off: OpenCV alone would fill the rest with grey.
        """
        _check_file(Path(path))
        data: Any = dict(img_path=str(path), img_id=0, sample_idx=0)
        for number, step in enumerate(self.steps):
            data = _load_step(step, data, Path(path).name)
            if "img" in data:
                start = number + 1
                while start < len(self.steps) and self.steps[start] is _flip_channels:
                    data, start = _flip_channels(data), start + 1
                return Loaded(data, self.steps[start:])
        raise UserError("no step of the config's pipeline loads an image (adds the key 'img')")

    def prepare(self, loaded: Loaded) -> dict[str, Any]:
        """Run the rest of the pipeline: the packed sample, as a data set gives it.

        Raises:
            UserError: A step fails on the image or drops it.
        """
        data: Any = dict(loaded.data)
        for step in loaded.rest:
            try:
                data = step(data)
            except Exception as error:  # steps raise what they like, as cv2.error where nothing is left of a side
                height, width = loaded.image.shape[:2]
                raise UserError(
                    f"{type(step).__name__} of the config's pipeline fails on an image of {width} x {height} pixels "
                    f"({type(error).__name__}: {error})"
                ) from error
            if data is None:
                raise UserError(f"{type(step).__name__} of the config's test pipeline drops the image")
        return data


def image_suffixes(cfg: Config, split: str = "test") -> tuple[str, ...]:
    """Endings of the files to look for in a folder: pictures, the data set's own, arrays for a loader of the user's."""
    dataset = dataset_of(cfg, split)
    named = dataset.get("extensions") or dataset.get("img_suffix") or ()
    named = (named,) if isinstance(named, str) else named
    steps = without_annotations(pipeline_of(cfg, split))
    kind = step_class(steps[0]) if steps else None
    own = kind is not None and not issubclass(kind, LoadImageFromFile) and has_loader(cfg, steps)
    return tuple(dict.fromkeys([*SUFFIXES, *(str(n).lower() for n in named), *(ARRAY_SUFFIXES if own else ())]))


def image_channels(cfg: Config, model: nn.Module | None = None) -> int:
    """Channels of the model's images: the backbone's ``in_channels``, the number of means, or the first layer's.

    In this order, as each is surer than the next; 3 if nothing says so.
    """
    given = (cfg.model.get("backbone") or {}).get("in_channels")
    if isinstance(given, int):
        return given
    mean = preprocessor_of(cfg).get("mean") or ()
    if len(mean) > 1:  # a single one may stand for all channels
        return len(mean)
    return first_channels(model) if model is not None else 3


def first_channels(model: nn.Module) -> int:
    """Input channels of the model's first convolution, packed ones and graphs among them; 3 without one."""
    focus = None
    for name, module in model.named_modules():
        if isinstance(module, GraphNetwork) and module.image_channels:
            return module.image_channels
        if type(module).__name__ == "Focus":  # YOLOX: four pixels of the image become channels of one
            focus = f"{name}."
        weight: Any = getattr(getattr(module, "weight", None), "shape", ())  # a packed layer has it too
        if len(weight) >= 4:
            channels = weight[1] * getattr(module, "groups", 1)
            return channels // 4 if focus and name.startswith(focus) else channels
    return 3


def preprocessor_of(cfg: Config) -> dict[str, Any]:
    """Options of the config's data preprocessor, which stands at the top or in the model."""
    return {**(cfg.get("data_preprocessor") or {}), **(cfg.model.get("data_preprocessor") or {})}


def turns_channels(cfg: Config) -> bool:
    """Whether the data preprocessor exchanges red and blue."""
    part = preprocessor_of(cfg)
    return any(part.get(key) for key in ("to_rgb", "bgr_to_rgb", "rgb_to_bgr"))


def channel_order(cfg: Config, split: str) -> str:
    """``'rgb'`` or ``'bgr'``: the order in which a split's pipeline hands over colour images.

    Found out by reading a red picture with the loader of the config and the steps behind it that exchange channels.
    Where that cannot be done (arrays, a data set without a loader) the data preprocessor tells: OpenMMLab's networks
    take RGB unless the config says otherwise, so one that exchanges channels is given BGR.
    """
    return order_after(cfg, without_annotations(pipeline_of(cfg, split)))


def order_after(cfg: Config, steps: Sequence[Any], loader_only: bool = False) -> str:
    """:func:`channel_order` of ``steps``, or of their loader alone."""
    for suffix in (".png", ".tif"):
        try:
            image = np.asarray(_probe(cfg, steps, suffix, loader_only).get("img"))
        except Exception:  # the loader is any program of the user's, and may be made for files that are no pictures
            continue
        if image.ndim == 3 and image.shape[2] in (3, 4) and image[..., 0].mean() != image[..., 2].mean():
            return "bgr" if image[..., 2].mean() > image[..., 0].mean() else "rgb"
    return "bgr" if turns_channels(cfg) else "rgb"


def has_loader(cfg: Config, steps: Sequence[Any]) -> bool:
    """Whether the steps load images themselves; the data set does where they expect one or go without it."""
    try:
        return "img" in _probe(cfg, steps, ".png", loader_only=True)
    except KeyError as error:
        return error.args != ("img",)
    except Exception:  # as in order_after; it did not ask for an image, so it loads one
        return True


def step_class(step: Any) -> type | None:
    """The class of a pipeline step as a config writes it, by name or as a class; None if it is not registered."""
    return registered(TRANSFORMS, step.get("type")) if isinstance(step, dict) else None


def registered(registry: Registry, kind: Any) -> type | None:
    """The class that a config's ``type`` names in the current scope, or is; None if there is none."""
    if not isinstance(kind, str):
        return kind if isinstance(kind, type) else None
    with registry.switch_scope_and_registry(None) as scoped:  # as building does; get alone looks at the root only
        found = scoped.get(kind)
    return found if isinstance(found, type) else None


def _loads_annotations(step: Any) -> bool:
    kind = step_class(step)
    name = kind.__name__ if kind is not None else str(step.get("type"))
    return "Annotation" in name or "Proposals" in name or (kind is not None and issubclass(kind, LoadAnnotations))


def _exchanges_channels(step: Any) -> bool:
    """Whether a step behind the loader may exchange red and blue. Random ones would hide the order in a probe."""
    kind = step_class(step)
    name = kind.__name__ if kind is not None else type(step).__name__
    return name in ("NumpyToPIL", "PILToNumpy", "Normalize") or "rgb" in name.lower()


def _build(cfg: Config, steps: Sequence[Any]) -> list[Any]:
    init_default_scope(scope_of(cfg))  # another config may have been read in between
    return [TRANSFORMS.build(step) if isinstance(step, dict) else step for step in steps]


def _probe(cfg: Config, steps: Sequence[Any], suffix: str, loader_only: bool) -> dict[str, Any]:
    """What the loader, and the steps behind it that exchange channels, make of a red picture."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"red{suffix}")
        Image.new("RGB", (8, 8), (250, 30, 10)).save(path)
        data: Any = dict(img_path=str(path), img_id=0, sample_idx=0)
        for step in steps:
            if "img" in data and loader_only:
                break
            if "img" not in data or _exchanges_channels(step):
                data = _build(cfg, [step])[0](data)
    return data


def _load_step(step: Any, data: dict[str, Any], name: str) -> dict[str, Any]:
    try:
        loaded = step(data)
    except KeyError as error:
        raise UserError(
            f"{type(step).__name__} of the config's pipeline asks for {error}, which its data set gives and a file "
            "alone does not have: let the loader do with 'img_path'"
        ) from error
    except Exception as error:  # decoders raise what they like: cv2.error, SyntaxError and struct.error among it
        text = str(error).replace(data["img_path"], name)
        raise UserError(f"cannot be decoded ({text or type(error).__name__})") from error
    if loaded is None:
        raise UserError("cannot be decoded (the loader gave no image)")
    return loaded


def _check_file(path: Path) -> None:
    """Refuse a picture that Pillow knows and cannot decode in full; other files are the loader's to judge."""
    try:
        probe = Image.open(path)
    except Exception:  # no picture that Pillow knows; its openers raise what they like, too
        return
    with probe:
        try:
            probe.load()
        except Exception as error:
            if probe.format in _CHECKED_FORMATS:
                raise UserError(f"cannot be decoded ({str(error).replace(str(path), path.name)})") from None


def _flip_channels(data: dict[str, Any]) -> dict[str, Any]:
    image = data["img"]
    return dict(data, img=np.ascontiguousarray(image[..., ::-1])) if image.ndim == 3 else data
