# python tools/train.py configs/faster_rcnn_rebnn_r18_fast_voc.py
# faster_rcnn_rebnn_r18_voc.py with 300 proposals and 1-bit shared linear layers. Expected: not yet measured.
_base_ = [
    './_base_/models/faster_rcnn_rebnn_r18_fpn_fast.py',
    './_base_/datasets/voc_detection.py',
    './_base_/schedules/adam_12e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
model = dict(
    backbone=dict(conv_cfg={{_base_.binary_conv}}),
    neck=dict(conv_cfg={{_base_.binary_conv}}),
    rpn_head=dict(binarize=dict(layer={{_base_.binary_conv}})),
    roi_head=dict(bbox_head=dict(binarize=dict(layer={{_base_.binary_linear}}))))
