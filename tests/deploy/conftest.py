"""Models with random weights and batch norms that have seen data, as a trained model's have."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

ROOT = Path(__file__).parents[2]


def used(model, forward, channels=3):
    """Random norms of both signs, statistics from ``forward``, eval mode."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.momentum = None  # a plain average, so that few passes suffice
            if module.affine:
                module.weight.data.normal_(generator=generator)
                module.bias.data.normal_(generator=generator)
        if isinstance(module, nn.PReLU):
            module.weight.data.uniform_(-0.5, 1, generator=generator)
    with torch.no_grad():
        for seed in range(2):
            x = torch.randn(2, channels, 96, 96, generator=torch.Generator().manual_seed(seed))
            forward(model.train(), x)
    return model.eval()


@pytest.fixture
def threads():
    """Set torch's number of threads, 1 at first; the old number comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def classifier():
    """mmpretrain's ImageClassifier of a ReBNNResNet: ``classifier(depth=18, classes=10, base_channels=16, ...)``."""
    pytest.importorskip("mmpretrain.models")  # registers them
    made = {}

    def build(depth=18, classes=10, base_channels=16, **backbone):
        key = str((depth, classes, base_channels, sorted(backbone.items())))
        if key not in made:
            torch.manual_seed(0)
            init_default_scope("mmpretrain")
            features = base_channels * 8 * (4 if depth == 50 else 1)
            model = MODELS.build(
                dict(
                    type="ImageClassifier",
                    backbone=dict(type="ReBNNResNet", depth=depth, base_channels=base_channels, **backbone),
                    neck=dict(type="GlobalAveragePooling"),
                    head=dict(type="LinearClsHead", num_classes=classes, in_channels=features),
                )
            )
            made[key] = used(model, lambda m, x: m.backbone(x), backbone.get("in_channels", 3))
        return copy.deepcopy(made[key])

    return build


@pytest.fixture(scope="session")
def detector(tmp_path_factory):
    """(config, checkpoint path, model): Faster R-CNN R18, 1-bit in backbone, neck, RPN and shared FCs."""
    pytest.importorskip("mmdet")
    from rebnn_mm.integrations.build import build_model, read_config
    from rebnn_mm.integrations.suite import SHARED_FCS

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
