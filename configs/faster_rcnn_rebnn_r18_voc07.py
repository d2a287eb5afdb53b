# python tools/train.py configs/faster_rcnn_rebnn_r18_voc07.py
# VOC 2007 alone (trainval -> test); own data in VOC's format inherit this one. Expected: not yet measured on all of it.
_base_ = [
    './_base_/models/faster_rcnn_rebnn_r18_fpn.py',
    './_base_/datasets/voc07_detection.py',
    './_base_/schedules/adam_12e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py'
]
model = dict(
    backbone=dict(conv_cfg={{_base_.binary_conv}}),
    neck=dict(conv_cfg={{_base_.binary_conv}}),
    rpn_head=dict(binarize=dict(layer={{_base_.binary_conv}})))
