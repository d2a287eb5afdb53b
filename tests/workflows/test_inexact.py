"""tools/test.py --inexact: for packed files alone."""

from pathlib import Path

import pytest

from rebnn_mm.errors import UserError
from rebnn_mm.integrations.build import read_config
from rebnn_mm.workflows import launch

ROOT = Path(__file__).parents[2]


def test_a_checkpoint_has_nothing_inexact(tmp_path):
    cfg = read_config(ROOT / "configs/resnet18_rebnn_cifar10.py", {})
    with pytest.raises(UserError, match=r"--inexact is for .rebnn files, .*latest.pth is a checkpoint"):
        launch.test(cfg, str(tmp_path / "latest.pth"), exact=False)
