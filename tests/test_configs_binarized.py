"""The stock detectors of configs/binarized/: one line makes each 1-bit; a small one trains and exports elsewhere.

tests/workflows/test_detector_parts.py trains and exports them.
"""

import logging
from pathlib import Path

import pytest

pytest.importorskip("mmdet")

from rebnn_mm.integrations.build import build_model, read_config
from rebnn_mm.layers import binary_layers

FOLDER = Path(__file__).parents[1] / "configs" / "binarized"
CONFIGS, OF_CELLS = sorted(FOLDER.glob("*_coco.py")), sorted(FOLDER.glob("*_bccd.py"))
# what says a score, a box or a mask
PREDICTIONS = ("fc_cls", "fc_reg", "rpn_cls", "rpn_reg", "conv_logits", "rtm_", "multi_level_conv_", "reg_ffn")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of the stock models
@pytest.mark.parametrize("path", [*CONFIGS, *OF_CELLS], ids=lambda path: path.stem)
def test_one_line_makes_the_stock_detector_1_bit(path, caplog):
    cfg = read_config(path)
    assert path.read_text().startswith(f"# python tools/train.py configs/binarized/{path.name}\n")
    assert cfg.model.base.lower() == path.stem.split("_r50")[0].split("_s_")[0].replace("_", "")
    hooks = {hook["type"] for hook in cfg.default_hooks.values()}
    if path in CONFIGS:
        assert hooks >= {"BalanceHook", "CheckpointHook"}
    else:
        assert "ResilientCheckpointHook" in hooks and "BalanceHook" in {hook["type"] for hook in cfg.custom_hooks}
    with caplog.at_level(logging.WARNING):
        model = build_model(cfg)
    layers = binary_layers(model)
    assert len(layers) > 40
    assert {"backbone", "neck"} <= {name.partition(".")[0] for name in layers} or cfg.model.base == "DETR"
    assert not [name for name in layers if any(word in name.rpartition(".")[0] + name for word in PREDICTIONS)]
    assert "frozen" not in caplog.text
    assert all(layer.weight.requires_grad for layer in layers.values())


def test_there_are_the_five_that_the_docs_name():
    names = ["cascade_rcnn_r50", "detr_r50", "mask_rcnn_r50", "rtmdet_s", "yolox_s"]
    assert [path.stem for path in CONFIGS] == [f"{name}_coco" for name in names]
    assert [path.stem for path in OF_CELLS] == [f"{name}_bccd" for name in names]
