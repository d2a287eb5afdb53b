"""The number at which a rising or falling function changes its sign."""

import torch

from rebnn_mm.deploy.operation.thresholds import LARGEST, Turn


def test_every_number_is_where_it_turns():
    numbers = torch.tensor([0.0, 1.5, -1.5, 1e-45, -1e-45, 1e-38, -1e-38, LARGEST, 3e38, -3e38])
    rising = Turn.of(len(numbers), lambda x: x >= numbers)
    assert torch.equal(rising.above, numbers) and not rising.first.any() and rising.last.all()
    # a largest number below, next to it
    assert torch.equal(rising.below, torch.nextafter(numbers, torch.tensor(-torch.inf)))
    falling = Turn.of(len(numbers) - 1, lambda x: x <= numbers[[0, 1, 2, 3, 4, 5, 6, 8, 9]])
    assert torch.equal(falling.below, numbers[[0, 1, 2, 3, 4, 5, 6, 8, 9]]) and falling.first.all()


def test_a_function_without_a_change_says_so():
    turn = Turn.of(2, lambda x: torch.tensor([True, False]))
    assert turn.first.tolist() == turn.last.tolist() == [True, False]
