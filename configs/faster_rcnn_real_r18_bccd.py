# python tools/train.py configs/faster_rcnn_real_r18_bccd.py
# The real-valued twin of faster_rcnn_rebnn_r18_bccd.py: same structure, same budget.
_base_ = [
    './_base_/models/faster_rcnn_rebnn_r18_fpn_small.py',
    './_base_/datasets/bccd_detection.py',
    './_base_/schedules/adam_16e.py',
    './_base_/methods/real.py',
    './_base_/runtime/default.py',
]
model = dict(
    backbone=dict(conv_cfg=dict(type='Conv2d')),
    neck=dict(conv_cfg=None),
    rpn_head=dict(binarize=None),
    roi_head=dict(bbox_head=dict(num_classes=3)))
