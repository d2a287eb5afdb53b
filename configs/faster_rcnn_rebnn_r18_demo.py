# python tools/train.py configs/faster_rcnn_rebnn_r18_demo.py
# Drawn shapes, trained in minutes on a CPU; `make demo` draws them first. Expected: see docs/results.md.
_base_ = [
    './_base_/models/faster_rcnn_rebnn_r18_fpn_small.py',
    './_base_/datasets/demo_detection.py',
    './_base_/schedules/adam_16e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
# images of 160x120: anchors of half the usual size
model = dict(
    backbone=dict(conv_cfg={{_base_.binary_conv}}),
    neck=dict(conv_cfg={{_base_.binary_conv}}),
    rpn_head=dict(anchor_generator=dict(scales=[4]), binarize=dict(layer={{_base_.binary_conv}})),
    roi_head=dict(bbox_head=dict(num_classes=4)),
    train_cfg=dict(rcnn=dict(sampler=dict(num=64))))
train_cfg = dict(max_epochs=12, val_interval=6)
# an epoch takes as long as saving ten times: every fourth one is kept
default_hooks = dict(checkpoint=dict(interval=4))
