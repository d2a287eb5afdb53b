"""A batch of token sequences, padded to its longest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.registry import FUNCTIONS
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@FUNCTIONS.register_module()
def pad_collate(batch: Sequence[dict[str, Any]], pad_id: int = 0) -> dict[str, Any]:
    """Samples of :class:`rebnn_mm.bert.GlueDataset` -> what the model takes; for ``collate_fn`` of a data loader.

    Returns ``inputs``, a dict of (N, L) integers ``input_ids``, ``token_type_ids`` and ``attention_mask`` (1 for a
    token, 0 for padding), L being the longest of the batch, and ``data_samples``, a dict of ``index``, a list, and
    ``labels``, (N,), where the split has labels.

    Args:
        batch: N samples.
        pad_id: Written where a sequence has ended; nothing depends on it, the mask hides it.
    """
    ids = [sample["input_ids"] for sample in batch]
    inputs = dict(
        input_ids=_pad(ids, pad_id),
        token_type_ids=_pad([sample["token_type_ids"] for sample in batch], 0),
        attention_mask=_pad([torch.ones_like(row) for row in ids], 0),
    )
    targets: dict[str, Any] = dict(index=[sample["index"] for sample in batch])
    if batch[0]["label"] is not None:
        targets["labels"] = torch.tensor([sample["label"] for sample in batch])
    return dict(inputs=inputs, data_samples=targets)


def _pad(rows: list[Tensor], value: int) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)
