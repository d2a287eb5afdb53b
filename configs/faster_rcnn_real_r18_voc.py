# python tools/train.py configs/faster_rcnn_real_r18_voc.py
# Expected: not yet measured on the full data set.
_base_ = [
    './_base_/models/faster_rcnn_rebnn_r18_fpn.py',
    './_base_/datasets/voc_detection.py',
    './_base_/schedules/adam_12e.py',
    './_base_/methods/real.py',
    './_base_/runtime/default.py'
]
# The same structure with real-valued convolutions.
model = dict(
    backbone=dict(conv_cfg=dict(type='Conv2d')),
    neck=dict(conv_cfg=None),
    rpn_head=dict(binarize=None))
