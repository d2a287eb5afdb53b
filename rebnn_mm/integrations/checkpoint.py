"""Checkpoints are data: read without running code in them, and refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.runner.checkpoint import get_torch_safe_globals
from torch import nn

from rebnn_mm.errors import MissingFileError, UserError, UserFileError


def is_packed_file(path: str | Path) -> bool:
    """Whether ``path`` is named as a packed file, not as a checkpoint."""
    return Path(path).suffix == ".rebnn"


def is_program(path: str | Path) -> bool:
    """Whether ``path`` is named as an ExecuTorch program."""
    return Path(path).suffix == ".pte"


def load_weights(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU with ``weights_only=True`` and return it with its ``state_dict``.

    mmengine's own loader falls back to unpickling anything when the safe way fails; this one does not.
    A bare state dict is returned as ``{'state_dict': ...}``.

    Raises:
        FileNotFoundError: ``path`` is no file.
        ValueError: The file is truncated, not a checkpoint, or needs code of its own to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"checkpoint {path} is not a file: check the path, or train first with tools/train.py")
    try:
        with torch.serialization.safe_globals(get_torch_safe_globals()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise UserFileError(f"checkpoint {path} may not be read: {error.strerror}") from None
    except (RuntimeError, EOFError, OSError) as error:
        # torch's archive reader says so in its own words, and a cut download is by far the commonest cause.
        raise UserError(
            f"checkpoint {path} is truncated or damaged: copy or download it again ({_line(error)})"
        ) from None
    except Exception as error:  # torch's unpickler raises what it stumbles over in foreign bytes, struct.error among it
        raise UserError(
            f"checkpoint {path} is no PyTorch checkpoint, or holds objects that would run code when loaded, which is "
            f"refused: save tensors and plain Python values only ({_line(error)})"
        ) from None
    if not isinstance(checkpoint, dict):
        raise UserError(f"checkpoint {path} holds a {type(checkpoint).__name__}; expected a dict with a state_dict")
    if not isinstance(checkpoint.get("state_dict"), dict):
        if not checkpoint or not all(isinstance(value, torch.Tensor) for value in checkpoint.values()):
            keys = ", ".join(map(str, list(checkpoint)[:5])) or "nothing"
            raise UserError(f"checkpoint {path} has no state_dict, it holds: {keys}; give a file that training saved")
        checkpoint = {"state_dict": checkpoint}
    return checkpoint


def load_into(model: nn.Module, checkpoint: dict[str, Any], path: str | Path) -> None:
    """Load all weights of ``model`` from ``checkpoint``; ``path`` is named in the error.

    Raises:
        ValueError: Tensors are missing or of another shape: the checkpoint is of another architecture.
    """
    state = checkpoint["state_dict"]
    if all(name.startswith("module.") for name in state):  # saved from inside a DDP wrapper
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):  # torch's own words, for tensors of another shape
            raise
        detail = _line(error, last=True)
    else:
        # Absent from old checkpoints, and not read by any forward.
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        if not missing:
            return
        detail = f"{len(missing)} tensors are missing, {missing[0]} among them; {len(unexpected)} are unknown to it"
    raise UserError(f"checkpoint {path} does not fit the config's model: {detail}; give the config it was trained with")


def _line(error: Exception, last: bool = False) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if last else 0].rstrip(".:")[:200]
