"""Sizes that a program takes, where these are several."""

import json

import pytest
import torch
from torch import nn

from rebnn_mm.deploy import ModelCard
from rebnn_mm.deploy.targets.executorch.program import _check_input
from rebnn_mm.deploy.targets.executorch.program_card import program_card
from rebnn_mm.deploy.targets.executorch.sizes import Sizes, sizes_of
from rebnn_mm.errors import UserError

SIZES = Sizes((128, 160))


def test_which_sizes_are_taken():
    assert SIZES.least == (64, 64) and SIZES.takes((64, 160)) and SIZES.takes((96, 128))
    assert not SIZES.takes((32, 64)) and not SIZES.takes((160, 128)) and not SIZES.takes((100, 128))
    assert SIZES.some() == [(128, 160), (64, 64), (96, 64)] and Sizes((32, 64)).some() == [(32, 64)]


def test_torch_is_told_of_them():
    program = torch.export.export(nn.MaxPool2d(2), (torch.randn(1, 3, 128, 160),), dynamic_shapes=(SIZES.dims(),))
    assert program.module()(torch.randn(1, 3, 64, 96)).shape == (1, 3, 32, 48)
    assert list(Sizes((64, 160)).dims()) == [3]  # one height is no bound


@pytest.mark.parametrize("size", [(100, 128), (0, 64), (64,), (64, 96.0)])
def test_other_bounds_are_refused(size):
    with pytest.raises(UserError, match="height and width are multiples of 32"):
        Sizes(size).check()


def test_the_card_has_them_and_inputs_are_held_against_it():
    card = json.loads(program_card(ModelCard(), [torch.zeros(1, 3, 128, 160)], 1, sizes=SIZES))
    (spec,) = card["inputs"]
    assert sizes_of(spec) == SIZES and spec["least"] == [1, 3, 64, 64]
    _check_input(0, torch.zeros(1, 3, 96, 64), spec)
    for x in (
        torch.zeros(1, 3, 96, 60),
        torch.zeros(2, 3, 96, 64),
        torch.zeros(3, 96),
        torch.zeros(1, 3, 96, 64).int(),
    ):
        with pytest.raises(UserError, match=r"input 0 is .* the program takes .* multiples of 32"):
            _check_input(0, x, spec)
