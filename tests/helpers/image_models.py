"""A tiny detector and a tiny classifier with configs, pictures and checkpoints, for what shows images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rebnn_mm.integrations.build import build_model, read_config

DETECTOR = """
default_scope = 'mmdet'
custom_imports = dict(imports=['rebnn_mm', 'rebnn_mm.integrations.images.loading'])
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=True, pad_size_divisor=32),
    backbone=dict(type='ReBNNResNet', depth=18, base_channels=8, out_indices=(2, 3)),
    neck=dict(type='FPN', in_channels=[32, 64], out_channels=8, num_outs=2),
    bbox_head=dict(
        type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1,
        anchor_generator=dict(type='AnchorGenerator', scales=[2.0], ratios=[1.0], strides=[16, 32])),
    test_cfg=dict(nms_pre=20, min_bbox_size=0, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=5))
loading = dict(type='LoadCheckedImage')
resize = dict(type='Resize', scale=(96, 64), keep_ratio=True)
train_dataloader = dict(dataset=dict(
    type='VOCDataset', metainfo=dict(classes=('left', 'right')), data_root='DATA/VOCdevkit/',
    ann_file='VOC2007/ImageSets/Main/train.txt', data_prefix=dict(sub_data_root='VOC2007/'),
    pipeline=[loading, dict(type='LoadAnnotations', with_bbox=True), resize, dict(type='PackDetInputs')]))
test_dataloader = dict(dataset=dict(
    type='VOCDataset', metainfo=dict(classes=('left', 'right')), data_root='DATA/VOCdevkit/', test_mode=True,
    ann_file='VOC2007/ImageSets/Main/train.txt', data_prefix=dict(sub_data_root='VOC2007/'),
    pipeline=[loading, resize, dict(type='LoadAnnotations', with_bbox=True), dict(
        type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]))
"""

CLASSIFIER = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['rebnn_mm', 'rebnn_mm.integrations.images.loading'])
data_preprocessor = dict(num_classes=2, mean=[127.0] * 3, std=[60.0] * 3, to_rgb=True)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ReBNNResNet', depth=18, base_channels=8, stem='cifar'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=64))
train_dataloader = dict(dataset=dict(
    type='CustomDataset', data_root='DATA/folders', pipeline=[
        dict(type='LoadImageFromFile'), dict(type='RandomCrop', crop_size=32, padding=4), dict(type='PackInputs')]))
test_dataloader = dict(dataset=dict(
    type='CustomDataset', data_root='DATA/folders', pipeline=[
        dict(type='LoadCheckedImage'), dict(type='PackInputs')]))
"""

XML = """<annotation><size><width>48</width><height>32</height><depth>3</depth></size><object><name>right</name>
<difficult>0</difficult><bndbox><xmin>9</xmin><ymin>5</ymin><xmax>40</xmax><ymax>28</ymax></bndbox></object></annotation>
"""


def picture(path: Path, height: int = 32, width: int = 48) -> Path:
    """A grey image with a light rectangle and noise (so that the JPEG has a length worth cutting)."""
    pixels = np.random.default_rng(0).integers(80, 120, (height, width, 3), dtype=np.uint8)
    pixels[5:28, 9:40] = (200, 60, 60)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def make_image_models(root: Path) -> Path:
    """Two samples in VOC's layout and in class folders, configs and their checkpoints."""
    voc = root / "VOCdevkit" / "VOC2007"
    for name in ("000001", "000002"):
        picture(voc / "JPEGImages" / f"{name}.jpg")
        (voc / "Annotations").mkdir(exist_ok=True)
        (voc / "Annotations" / f"{name}.xml").write_text(XML)
    (voc / "ImageSets" / "Main").mkdir(parents=True)
    (voc / "ImageSets" / "Main" / "train.txt").write_text("000001\n000002\n")
    for label in ("cat", "dog"):
        picture(root / "folders" / label / "a.png", 32, 32)
    for kind, text in (("detector", DETECTOR), ("classifier", CLASSIFIER)):
        (root / f"{kind}.py").write_text(text.replace("DATA", str(root)))
        torch.manual_seed(0)
        model = build_model(read_config(root / f"{kind}.py"))
        meta = dict(dataset_meta=dict(classes=("apple", "pear"), palette=[(0, 255, 0), (0, 0, 255)]))
        torch.save(dict(meta=meta, state_dict=model.state_dict()), root / f"{kind}.pth")
    return root
