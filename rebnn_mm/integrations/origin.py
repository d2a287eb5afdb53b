"""Whether weights are those of a config's model, by what their file says of the config that they come from."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from rebnn_mm.deploy.file.card import ModelCard
from rebnn_mm.deploy.file.container import PackedFile
from rebnn_mm.errors import UserError
from rebnn_mm.integrations.checkpoint import load_into
from rebnn_mm.layers import BinaryLayer

# Keys of a model that its network in evaluation does not depend on: how it was trained, what is done with images
# before it, and with its results behind it. A distilled model and the plain one differ by some of them alone.
_BESIDE_NETWORK = frozenset(
    "teacher temperature distill_kind distill_weight label_weight logit_weight hidden_weight attention_weight "
    "train_cfg test_cfg data_preprocessor topk cal_acc init_cfg pretrained "
    "frozen_stages norm_eval with_cp drop_path_rate drop_rate attn_drop_rate".split()
)


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


def load_trained(model: nn.Module, checkpoint: dict[str, Any], path: str | Path, cfg: Config) -> None:
    """Load a training's weights into the model that ``cfg`` built, of the same method.

    Many methods have tensors of the same names. Which one trained is read from the config that mmengine puts into a
    checkpoint, as text that is parsed and never run; a checkpoint without it may be of any method.

    Args:
        model: Of ``cfg``.
        checkpoint: From :func:`rebnn_mm.integrations.checkpoint.load_weights`.
        path: Named in the error.
        cfg: What the weights are used with.

    Raises:
        UserError: Tensors are missing or of another shape, or the checkpoint was trained with other 1-bit layers.
    """
    load_into(model, checkpoint, path)
    text = (checkpoint.get("meta") or {}).get("cfg")
    if not isinstance(text, str):
        return
    built = {type(module).__name__ for module in model.modules() if isinstance(module, BinaryLayer)}
    before = _layer_types(_model_in(text))
    here = f"{path}, and the config's model has {', '.join(sorted(built)) or 'no 1-bit layers'}"
    if others := before - built - _layer_types(cfg.model):
        raise UserError(f"{', '.join(sorted(others))} trained {here}: give the config that it was trained with")
    if scale := next(_unknown_scales(model, checkpoint["state_dict"]), None):  # a method that its config need not name
        raise UserError(f"layers with a learned scale ({scale}) trained {here}: give the config it was trained with")


def _unknown_scales(model: nn.Module, state: dict[str, Any]) -> Iterator[str]:
    """Names of scales in ``state`` whose layers the model has, without a scale."""
    layers, known = dict(model.named_modules()), model.state_dict().keys()
    for name in (name.removeprefix("module.") for name in state):
        layer, _, tensor = name.rpartition(".")
        if tensor == "alpha" and layer in layers and name not in known:
            yield name


def _layer_types(value: Any) -> set[str]:
    """Names of 1-bit layers that a model's config, or a part of it, has as types; a teacher's are its own."""
    if isinstance(value, dict):
        kind = value.get("type")
        name = getattr(kind, "__name__", str(kind).rpartition(".")[2])
        inner = [_layer_types(item) for key, item in value.items() if key != "teacher"]
        return set().union(*inner, {name} & _binary_types())
    if isinstance(value, (list, tuple)):
        return set().union(*map(_layer_types, value))
    return set()


def _binary_types(base: type = BinaryLayer) -> set[str]:
    """Names of all classes of 1-bit layers that are imported; those of a model that was built are."""
    return {base.__name__}.union(*map(_binary_types, base.__subclasses__()))


def _model_in(text: str) -> Any:
    """``model`` of a config's text, as mmengine writes it, in plain values; None if there is none."""
    try:
        lines = ast.parse(text).body
    except SyntaxError:
        return None
    named = [line for line in lines if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "model"]
    return _plain(named[-1].value) if named else None


def _plain(node: ast.expr) -> Any:
    """``dict(...)``, ``{...}``, lists and constants as they are; anything else, as a class, as its text."""
    if isinstance(node, ast.Call):
        return {keyword.arg: _plain(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        return {_plain(key): _plain(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_plain(item) for item in node.elts]
    return node.value if isinstance(node, ast.Constant) else ast.unparse(node)
