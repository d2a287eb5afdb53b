"""What differs between the config that a checkpoint holds as text and the present one; no code of the text runs."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

# what shapes a training, in the order of telling; paths of outputs, logging and the number of workers do not
_TOLD = (
    *("optim_wrapper", "param_scheduler", "auto_scale_lr", "train_cfg", "custom_hooks"),
    *("model", "data_preprocessor", "train_dataloader"),
)
_QUIET = ("num_workers", "persistent_workers", "pin_memory", "prefetch_factor", "data_root")
_ABSENT = "nothing"


@dataclass(frozen=True)
class Changes:
    """Dotted keys with their values, before and now; all empty when the checkpoint's text cannot be read."""

    before: dict[str, Any]
    now: dict[str, Any]

    @property
    def keys(self) -> set[str]:
        """Every key of both."""
        return self.before.keys() | self.now.keys()

    def under(self, *heads: str) -> dict[str, tuple[Any, Any]]:
        """Key -> (before, now) of what differs below one of the top-level ``heads``; an absent one is 'nothing'."""
        if not self.before:
            return {}
        return {
            key: (self.before.get(key, _ABSENT), self.now.get(key, _ABSENT))
            for key in sorted(self.keys)
            if key.split(".")[0] in heads and self.before.get(key, _ABSENT) != self.now.get(key, _ABSENT)
        }

    def listed(self, limit: int) -> str:
        """``key old -> new, ...``, the first ``limit`` of those that shape a training."""
        changed = {key: pair for head in _TOLD for key, pair in self.under(head).items()}
        told = [f"{key} {old} -> {new}" for key, (old, new) in changed.items() if key.split(".")[-1] not in _QUIET]
        more = [f"{len(told) - limit} more"] if len(told) > limit else []
        return ", ".join(told[:limit] + more)


def config_changes(text: str | None, cfg: Config) -> Changes:
    """Compare ``text``, a config as mmengine writes it into a checkpoint, with ``cfg``."""
    before, now = _flat(read_values(text or "")), _flat(read_values(cfg.pretty_text))
    return Changes(before, now if before else {})


def read_values(text: str) -> dict[str, Any]:
    """Values of a config text without running it: literals and ``dict(...)``, all else as its source; {} if broken."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return {}
    return {
        target.id: _value(statement.value)
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict" and not node.args:
        return {word.arg: _value(word.value) for word in node.keywords if word.arg is not None}
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict" and len(node.args) == 1:
        return _value(node.args[0])  # mmengine writes dict({...}) when a key is no name
    if isinstance(node, ast.Dict):
        return {
            ast.literal_eval(key): _value(value)
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant)
        }
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested dicts and lists as one dict of dotted keys, as ``--cfg-options`` names them."""
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        items = dict(enumerate(value)).items()
    else:
        return {key: value} if key else {}
    flat: dict[str, Any] = {}
    for name, item in items:
        flat.update(_flat(item, f"{key}.{name}" if key else str(name)))
    return flat
