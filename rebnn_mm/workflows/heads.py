"""Classes of the data held against the model's heads, before a label becomes background or an index out of range."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.logging import print_log
from torch import nn

from rebnn_mm.errors import UserError

# an rpn_head knows objects and background alone, a semantic head has classes of its own
_DETECTOR_HEAD = re.compile(r"(.*\.)?(bbox|mask)_head(\.\d+)?")
_CLASSIFIER = ("head", "data_preprocessor")
_MOST_LABELS = 100_000  # to be read one by one: about a second


def check_heads(model: nn.Module, datasets: Mapping[str, Any], scope: str) -> None:
    """Compare every data set's classes with the number that each head tells apart, and the splits with each other.

    A head with more classes than the data is fine (a part of COCO), and said once. Data sets without classes, heads
    without ``num_classes``, class-agnostic ones and panoptic data (things and stuff) are left alone.

    Args:
        model: The model without a wrapper.
        datasets: Split ('train', 'val', 'test') -> built data set.
        scope: ``'mmdet'`` or ``'mmpretrain'``; other models are not checked.

    Raises:
        ValueError: More classes than a head has, or a class that has another number in another split.
    """
    if scope not in ("mmdet", "mmpretrain"):
        return
    named = {split: _classes(dataset) for split, dataset in datasets.items()}
    _check_splits({split: classes for split, classes in named.items() if classes})
    heads = dict(_detector_heads(model) if scope == "mmdet" else _classifier_heads(model))
    for split, classes in named.items():
        count = len(classes)
        if scope == "mmpretrain" and heads:
            count = max(count, _highest_label(datasets[split]) + 1)
        for key, number in heads.items():
            _check(split, classes, count, key, number)


def _check(split: str, classes: Sequence[str], count: int, key: str, number: int) -> None:
    shown = f" ({', '.join(classes[:4])}{', ...' if len(classes) > 4 else ''})" if classes else ""
    if count > number:
        raise UserError(
            f"the {split} data have {count} classes{shown}, and model.{key}.num_classes={number}: set it to {count}, "
            f"or name the classes that are meant in {split}_dataloader.dataset.metainfo.classes"
        )
    if 0 < count < number:
        print_log(
            f"model.{key}.num_classes={number}, and the {split} data have {count} classes{shown}: what the model says "
            "of the others has no name",
            "current",
            logging.WARNING,
        )


def _check_splits(named: Mapping[str, Sequence[str]]) -> None:
    splits = list(named)
    for one, other in zip(splits, splits[1:], strict=False):
        for label, (a, b) in enumerate(zip(named[one], named[other], strict=False)):
            if a != b:
                raise UserError(
                    f"label {label} is {a!r} in the {one} data and {b!r} in the {other} data: give both the same "
                    "classes in the same order (dataset.metainfo.classes; for folders, one folder a class in each)"
                )


def _classes(dataset: Any) -> Sequence[str]:
    meta = getattr(dataset, "metainfo", None) or {}
    classes = meta.get("classes")
    if "stuff_classes" in meta or isinstance(classes, str) or classes is None:
        return ()
    return list(classes)


def _detector_heads(model: nn.Module) -> Iterator[tuple[str, int]]:
    if any("language_model" in name for name, _ in model.named_children()):
        return  # its classes are words
    for name, module in model.named_modules():
        number = getattr(module, "num_classes", None)
        agnostic = getattr(module, "class_agnostic", False)
        if _DETECTOR_HEAD.fullmatch(name) and type(number) is int and not agnostic:
            yield name, number


def _classifier_heads(model: nn.Module) -> Iterator[tuple[str, int]]:
    for name in _CLASSIFIER:
        number = getattr(getattr(model, name, None), "num_classes", None)
        if type(number) is int:
            yield name, number


def _highest_label(dataset: Any) -> int:
    """The highest class number of a data set of moderate size; -1 where there are none."""
    if not hasattr(dataset, "get_gt_labels") or len(dataset) > _MOST_LABELS or not len(dataset):
        return -1
    if "gt_label" not in dataset.get_data_info(0):
        return -1
    first = dataset.get_data_info(0)["gt_label"]
    if np.ndim(first) != 0 or not np.issubdtype(np.asarray(first).dtype, np.integer):
        return -1  # several labels, or targets that are no classes
    return int(np.max(dataset.get_gt_labels()))
