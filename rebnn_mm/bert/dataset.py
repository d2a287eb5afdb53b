"""A split of a GLUE task, tokenised once and kept."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from rebnn_mm.bert.files import read_examples
from rebnn_mm.bert.tasks import find_task
from rebnn_mm.bert.tokenizer import build_tokenizer, encode
from rebnn_mm.checks import check_whole
from rebnn_mm.files.atomic import atomic_path

# a cache of another form has another name
CACHE_VERSION = 1


@DATASETS.register_module()
class GlueDataset(Dataset):
    """Token ids of a GLUE task's split, from its published tsv file.

    A sample is a dict: ``input_ids`` and ``token_type_ids``, (L,) int64 each, without padding; ``label``, a class or
    a number, None in a test split; ``index``, its row in the file.

    Args:
        task: ``'cola'``, ``'sst2'``, ``'mrpc'``, ``'stsb'``, ``'qqp'``, ``'mnli'``, ``'qnli'``, ``'rte'``, ``'wnli'``.
        data_root: Folder that holds the tasks' folders.
        vocab_file: BERT's ``vocab.txt``.
        split: ``'train'``, ``'dev'`` (MNLI: ``'dev_matched'`` is meant), ``'test'``, or a split's full name.
        max_length: Tokens of a sequence, special ones included; the rest is cut off.
        lowercase: As the vocabulary was made; True for "uncased" ones.
        indices: Keep the first so many rows only; None keeps all.
        malformed: As for :func:`rebnn_mm.bert.read_examples`.
        cache_dir: Folder for the token ids, so that another start need not tokenise; None writes nothing.
        lazy_init: Read the files at the first sample; until then only ``metainfo`` is there.

    Raises:
        FileNotFoundError: No such split or vocabulary.
        ValueError: An unknown task or split, a malformed file, a vocabulary without BERT's special tokens.
    """

    def __init__(
        self,
        task: str,
        data_root: str,
        vocab_file: str,
        split: str = "train",
        max_length: int = 128,
        lowercase: bool = True,
        indices: int | None = None,
        malformed: str = "error",
        cache_dir: str | None = None,
        lazy_init: bool = False,
    ) -> None:
        self.task = find_task(task)
        short = dict(dev=self.task.dev[0], test=self.task.test[0])
        self.split = short.get(split, split)
        self.max_length = max_length
        check_whole("GlueDataset: indices", indices, or_none=True, hint="; None keeps all rows")
        self._files = (data_root, Path(vocab_file))
        self._options = (lowercase, indices, malformed, cache_dir)
        self._ids: list[np.ndarray] | None = None
        self._seconds: np.ndarray = np.empty(0, np.int64)
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict[str, Any]:
        """``task``, ``split`` and ``classes``, which the metric reads."""
        return dict(task=self.task.name, split=self.split, classes=self.task.classes)

    def full_init(self) -> None:
        """Read and tokenise, if that has not been done."""
        if self._ids is not None:
            return
        root, vocab = self._files
        lowercase, indices, malformed, cache_dir = self._options
        examples = read_examples(root, self.task, self.split, malformed)[:indices]
        texts = [example.texts for example in examples]
        tokenizer = build_tokenizer(vocab, self.max_length, lowercase)
        name = _cache_name(texts, vocab, self.max_length, lowercase)
        cached = None if cache_dir is None else Path(cache_dir) / f"{self.task.name}_{self.split}_{name}.npz"
        found = None if cached is None else _read_cache(cached, len(examples))
        if found is None:
            ids, seconds = encode(tokenizer, texts)
            found = [np.asarray(row, np.int32) for row in ids], np.asarray(seconds, np.int64)
            if cached is not None:
                _write_cache(cached, *found)
        self._ids, self._seconds = found
        self._labels = [example.label for example in examples]

    def __len__(self) -> int:
        self.full_init()
        assert self._ids is not None
        return len(self._ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.full_init()
        assert self._ids is not None
        ids = torch.from_numpy(self._ids[index].astype(np.int64))
        types = (torch.arange(len(ids)) >= int(self._seconds[index])).long()
        return dict(input_ids=ids, token_type_ids=types, label=self._labels[index], index=index)


def _cache_name(texts: list[tuple[str, ...]], vocab: Path, max_length: int, lowercase: bool) -> str:
    """Changes with everything that the ids depend on."""
    digest = hashlib.sha256(repr((CACHE_VERSION, max_length, lowercase)).encode())
    digest.update(vocab.read_bytes())
    for row in texts:
        digest.update("\t".join(row).encode())
        digest.update(b"\n")
    return digest.hexdigest()[:16]


def _read_cache(path: Path, rows: int) -> tuple[list[np.ndarray], np.ndarray] | None:
    """What :func:`_write_cache` wrote; None if there is none, or a damaged one, which is then written anew."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, lengths, seconds = file["ids"], file["lengths"], file["seconds"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        print_log(f"{path} is damaged and written anew: {error}", "current", logging.WARNING)
        return None
    if len(lengths) != rows or len(seconds) != rows or lengths.sum() != len(ids):
        print_log(f"{path} is not what its name says and is written anew", "current", logging.WARNING)
        return None
    return np.split(ids, np.cumsum(lengths)[:-1]), seconds


def _write_cache(path: Path, ids: list[np.ndarray], seconds: np.ndarray) -> None:
    lengths = np.array([len(row) for row in ids])
    with atomic_path(path, make_folder=True) as temporary, open(temporary, "wb") as file:
        np.savez(file, ids=np.concatenate(ids), lengths=lengths, seconds=seconds)
