"""Data sets with more classes than the model has, and the cases that only look like it."""

import numpy as np
import pytest
from torch import nn

from rebnn_mm.errors import UserError
from rebnn_mm.workflows.heads import check_heads


class Data:
    def __init__(self, classes=None, labels=None, **meta):
        self.metainfo = {**({} if classes is None else {"classes": classes}), **meta}
        self.labels = labels
        if labels is not None:
            self.get_gt_labels = lambda: np.array(labels)
            self.get_data_info = lambda index: dict(gt_label=labels[index])

    def __len__(self):
        return len(self.labels or ())


class Head(nn.Module):
    def __init__(self, num_classes, **rest):
        super().__init__()
        self.num_classes = num_classes
        self.__dict__.update(rest)


def detector(**heads):
    model = nn.Module()
    model.rpn_head = Head(1)
    model.roi_head = nn.Module()
    for name, head in heads.items():
        model.roi_head.add_module(name, head)
    return model


def classifier(number):
    model = nn.Module()
    model.head = Head(number)
    return model


TWO = ("cat", "dog")


@pytest.mark.parametrize(
    ("model", "data", "scope", "message"),
    [
        (
            detector(bbox_head=Head(1)),
            Data(TWO),
            "mmdet",
            r"2 classes \(cat, dog\).*model.roi_head.bbox_head.num_classes=1",
        ),
        (
            detector(bbox_head=nn.ModuleList([Head(2), Head(1)])),
            Data(TWO),
            "mmdet",
            "model.roi_head.bbox_head.1.num_classes=1: set it to 2",
        ),
        (detector(bbox_head=Head(2), mask_head=Head(1)), Data(TWO), "mmdet", "mask_head.num_classes=1"),
        (
            classifier(2),
            Data(tuple("abcde")),
            "mmpretrain",
            r"5 classes \(a, b, c, d, \.\.\.\).*model.head.num_classes=2",
        ),
        (classifier(2), Data(labels=[0, 1, 2]), "mmpretrain", "the train data have 3 classes, and model.head"),
        (classifier(2), Data(TWO, labels=[0, 5]), "mmpretrain", "6 classes"),
    ],
)
def test_more_classes_than_the_head_has(model, data, scope, message):
    with pytest.raises(UserError, match=message):
        check_heads(model, dict(train=data), scope)


@pytest.mark.parametrize(
    ("model", "data", "scope"),
    [
        (detector(bbox_head=Head(2)), Data(TWO), "mmdet"),
        (detector(bbox_head=Head(80)), Data(TWO), "mmdet"),
        (detector(bbox_head=Head(2), mask_head=Head(1, class_agnostic=True)), Data(TWO), "mmdet"),
        (detector(), Data(TWO), "mmdet"),
        (detector(bbox_head=Head(1)), Data(), "mmdet"),
        (detector(bbox_head=Head(1)), Data(TWO, thing_classes=("cat",), stuff_classes=("dog",)), "mmdet"),
        (classifier(2), Data(TWO, labels=[0, 1]), "mmpretrain"),
        (classifier(2), Data(TWO, labels=[[0, 1], [1]]), "mmpretrain"),
        (classifier(2), Data(labels=[0.5, 7.5]), "mmpretrain"),
        (nn.Linear(1, 1), Data(TWO), "mmpretrain"),
        (classifier(1), Data(TWO), "mmengine"),
    ],
)
def test_what_is_right_or_cannot_be_known_passes(model, data, scope):
    check_heads(model, dict(train=data), scope)


def test_splits_that_number_their_classes_in_another_way():
    """A class folder is missing in val: its labels would mean other classes than the model's."""
    with pytest.raises(UserError, match="label 1 is 'b' in the train data and 'c' in the val data"):
        check_heads(classifier(3), dict(train=Data(tuple("abc")), val=Data(tuple("ac"))), "mmpretrain")
    check_heads(classifier(3), dict(train=Data(tuple("abc")), val=Data(tuple("ab"))), "mmpretrain")
    check_heads(classifier(3), dict(train=Data(tuple("abc")), val=Data()), "mmpretrain")
