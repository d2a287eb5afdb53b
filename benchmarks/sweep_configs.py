"""Which configs the sweep takes, and how they are read without a network."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

OURS = "rebnn_mm"
STOCK = ("mmpretrain", "mmdet")
LIBRARIES = (*STOCK, OURS)
# One of this package's configs for each architecture; others differ in data, size of the images and classes
OWN = (
    *("resnet18_rebnn_imagenet", "resnet34_rebnn_imagenet", "resnet18_rebnn_cifar10", "resnet20_rebnn_cifar10"),
    *("reactnet_a_rebnn_imagenette", "deit_tiny_rebnn_imagenette", "swin_tiny_rebnn_imagenette"),
    *("faster_rcnn_rebnn_r18_voc", "faster_rcnn_rebnn_r18_fast_voc", "faster_rcnn_rebnn_r34_voc"),
    *("rtmdet_rebnn_r18_bccd", "rtmdet_rebnn_r18_bccd_stride4"),
    *("fcos_rebnn_r18_bccd", "atss_rebnn_r18_bccd", "retinanet_rebnn_r18_bccd"),
)
BOXES = 32
# A detector's size by a word of its name; other words count as 2
_SIZES = {"tiny": 0, "t": 0, "b0": 0, "s": 1, "small": 1, "l": 3, "large": 3, "x": 4}
# These name weights in a file or on a server: the sweep's weights are random
_WEIGHTS = ("pretrained", "checkpoint", "teacher_ckpt", "load_from")
RULES = {
    "mmpretrain": "of each folder the ImageNet-1k config with the fewest parameters by the folder's metafile.yml "
    "(then those it has no figure for), the shorter name first",
    "mmdet": "of each folder the COCO config with a ResNet-50, else the one of the smallest size by its name, "
    "the shorter name first",
    OURS: "of this package's configs one for each architecture; each is 1-bit as it is, and its stock model is the "
    "real-valued twin",
}


def configs_root(library: str) -> Path:
    """The installed package's ``.mim/configs``, found without importing the package; of this one its own folder."""
    if library == OURS:
        return Path(__file__).parents[1] / "configs"
    spec = importlib.util.find_spec(library)
    assert spec is not None and spec.origin is not None, f"{library} is not installed"
    return Path(spec.origin).parent / ".mim" / "configs"


def folders(library: str) -> list[str]:
    """Names of the folders that hold configs, sorted; of this package names of configs."""
    if library == OURS:
        return sorted(OWN)
    root = configs_root(library)
    return sorted(path.name for path in root.iterdir() if path.is_dir() and candidates(library, path.name))


def candidates(library: str, folder: str) -> list[Path]:
    """The folder's configs in the order of :data:`RULES`: the first that builds is taken."""
    if library == OURS:
        return [configs_root(library) / f"{folder}.py"]
    if folder.startswith("_"):
        return []
    paths = [path for path in (configs_root(library) / folder).glob("*.py") if not path.name.startswith("_")]
    paths = [path for path in paths if not path.stem.endswith("_tta")]
    sizes = _parameters(configs_root(library) / folder / "metafile.yml") if library == "mmpretrain" else {}

    def classifier(path: Path) -> tuple[Any, ...]:
        part = any(word in path.stem for word in ("headless", "deploy", "delopy"))
        return part, "in1k" not in path.stem, sizes.get(path.name, float("inf")), len(path.stem), path.stem

    def detector(path: Path) -> tuple[Any, ...]:
        words = re.split("[-_.]", path.stem)
        size = min(_SIZES.get(word, 2) for word in words)
        return "coco" not in words, not {"r50", "resnet50"} & set(words), size, len(path.stem), path.stem

    return sorted(paths, key=classifier if library == "mmpretrain" else detector)


def _parameters(metafile: Path) -> dict[str, float]:
    """Parameters of each config by its file name."""
    if not metafile.is_file():
        return {}
    found = {}
    for entry in yaml.safe_load(metafile.read_text()).get("Models") or ():
        count = (entry.get("Metadata") or {}).get("Parameters")
        if count and entry.get("Config"):
            found[Path(entry["Config"]).name] = float(count)
    return found


def read(path: Path) -> Config:
    """The config without anything that would be downloaded."""
    cfg = Config.fromfile(path)
    if "model" not in cfg:
        raise LookupError(f"{path.name} has no model: it is a part of other configs")
    if cfg.get("data_preprocessor") is not None:  # mmpretrain keeps it at the top; its runner moves it likewise
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    without_weights(cfg.model)
    few_boxes(cfg.model)
    preprocessor = cfg.model.get("data_preprocessor") or {}
    if preprocessor.get("batch_augments"):  # one pads every image to 1024 pixels
        kept = [part for part in preprocessor.batch_augments if part.type != "BatchFixedSizePad"]
        preprocessor.batch_augments = kept or None
    return cfg


def without_weights(value: Any) -> None:
    """Remove, in place and at every depth, the names of weights."""
    if isinstance(value, dict):
        for key in list(value):
            item = value[key]
            loads = isinstance(item, dict) and "checkpoint" in item  # PVT gives no type=Pretrained
            if key in _WEIGHTS and isinstance(item, str):
                value[key] = None
            elif key == "distillation" and item is True:  # such heads refuse to train without a teacher
                value[key] = False
            elif key == "init_cfg" and (loads or isinstance(item, list)):
                rest = [part for part in (item if isinstance(item, list) else ()) if "checkpoint" not in part]
                value[key] = rest or None
            else:
                without_weights(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            without_weights(item)


def few_boxes(value: Any) -> None:
    """Reduce, in place, the proposals and boxes of a detector: the layers stay the same, on fewer regions."""
    if isinstance(value, dict):
        sampler = str(value.get("type", "")).endswith("Sampler")
        for key, item in value.items():
            if key in ("max_per_img", "nms_pre", "nms_post") or (sampler and key == "num"):
                value[key] = min(item, BOXES) if isinstance(item, int) else item
            else:
                few_boxes(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            few_boxes(item)


def find(value: Any, key: str) -> list[Any]:
    """Every value that stands under ``key`` at any depth, in order."""
    if isinstance(value, dict):
        return [item for name, item in value.items() if name == key] + [
            hit for item in value.values() for hit in find(item, key)
        ]
    if isinstance(value, (list, tuple)):
        return [hit for item in value for hit in find(item, key)]
    return []
