"""Whether weights are those of a config's model, by what their file says of the config that they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config

from rebnn_mm.deploy.file.card import ModelCard
from rebnn_mm.deploy.file.container import PackedFile
from rebnn_mm.errors import UserError

# Keys of a model that its network in evaluation does not depend on: how it was trained, what is done with images
# before it, and with its results behind it. A distilled model and the plain one differ by some of them alone.
_BESIDE_NETWORK = {"teacher", "temperature", "train_cfg", "test_cfg", "data_preprocessor", "init_cfg", "pretrained"}
_BESIDE_NETWORK |= {"topk", "cal_acc", "distill_kind"}
_BESIDE_NETWORK |= {f"{name}_weight" for name in ("distill", "label", "logit", "hidden", "attention")}


def refuse_other_model(path: str | Path, file: PackedFile, cfg: Config, whole: bool = False) -> None:
    """Refuse a packed file under the config of another model. A file that no config was stored in may be any's.

    Args:
        path: Named in the error.
        file: What was read from it.
        cfg: What it is used with.
        whole: Compare the models' configs whole, and not what their networks depend on alone.

    Raises:
        UserError: The models differ.
    """
    stored = ModelCard.from_plain(file.info).config
    if not stored:
        return
    before, now = stored.get("model") or {}, cfg.to_dict()["model"]
    if not whole:  # DistilledClassifier is ImageClassifier with another loss; the parts say what network it is
        before, now = ({key: value for key, value in model.items() if key != "type"} for model in (before, now))
    if found := _difference("model", before, now, whole):
        raise UserError(
            f"{path} was exported from another model than the config's ({found}): give the config that it was exported "
            "from, and --cfg-options as they were then"
        )


def _difference(key: str, before: Any, now: Any, whole: bool) -> str | None:
    """The first value that differs, in words; a key that one side lacks counts as None."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [name for name in {**before, **now} if whole or not _is_beside_network(name)]
        found = (_difference(f"{key}.{name}", before.get(name), now.get(name), whole) for name in names)
        return next(filter(None, found), None)
    if isinstance(before, (list, tuple)) and isinstance(now, (list, tuple)) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        found = (_difference(f"{key}.{place}", *pair, whole) for place, pair in pairs)
        return next(filter(None, found), None)
    return None if before == now else f"{key} was {before!r:.60} and is {now!r:.60}"


def _is_beside_network(name: Any) -> bool:
    return name in _BESIDE_NETWORK or str(name).startswith("loss")
