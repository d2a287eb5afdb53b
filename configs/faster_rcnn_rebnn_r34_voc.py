# python tools/train.py configs/faster_rcnn_rebnn_r34_voc.py
# Expected: not yet measured on the full data set.
_base_ = [
    './_base_/models/faster_rcnn_rebnn_r18_fpn.py',
    './_base_/datasets/voc_detection.py',
    './_base_/schedules/adam_12e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py'
]
model = dict(
    backbone=dict(depth=34, conv_cfg={{_base_.binary_conv}}),
    neck=dict(conv_cfg={{_base_.binary_conv}}),
    rpn_head=dict(binarize=dict(layer={{_base_.binary_conv}})))
