"""A detector with random weights and batch norms that have seen data, as a trained model's have."""

from pathlib import Path

import pytest
import torch
from used_norms import used

ROOT = Path(__file__).parents[2]
SHARED_FCS = {
    "model.roi_head.bbox_head.type": "Binarized",
    "model.roi_head.bbox_head.base": "Shared2FCBBoxHead",
    "model.roi_head.bbox_head.binarize.include": "shared_fcs",
}


@pytest.fixture(scope="session")
def detector(tmp_path_factory):
    """(config, checkpoint path, model): Faster R-CNN R18, 1-bit in backbone, neck, RPN and shared FCs."""
    pytest.importorskip("mmdet")
    from rebnn_mm.integrations.build import build_model, read_config

    options = {**SHARED_FCS, "model.test_cfg.rcnn.score_thr": 0.0, "model.test_cfg.rpn.max_per_img": 50}
    cfg = read_config(ROOT / "configs/faster_rcnn_rebnn_r18_voc.py", options)
    for step in cfg.test_dataloader.dataset.pipeline:
        if step.get("type") == "Resize":
            step.scale = (160, 128)
    torch.manual_seed(0)
    model = used(build_model(cfg), lambda m, x: m.neck(m.backbone(x)))
    path = tmp_path_factory.mktemp("detector") / "latest.pth"
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=("cat", "dog")))), path)
    return cfg, path, model
