"""What capturing says beside its result."""

import logging

import torch
from torch import nn

from rebnn_mm.deploy.graph.capture import capture


def test_a_batch_of_one_is_captured_without_a_word(capfd):
    levels = [logging.getLogger(name).level for name in ("torch._export.non_strict_utils",)]
    traced = capture(nn.Conv2d(3, 4, 3), [torch.randn(1, 3, 8, 8)])
    assert traced.inputs[0].shape[0] == 1
    assert "specialized" not in capfd.readouterr().err
    assert [logging.getLogger("torch._export.non_strict_utils").level] == levels
