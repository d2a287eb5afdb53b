# python tools/train.py configs/rtmdet_real_r18_bccd.py
# The real-valued twin of rtmdet_rebnn_r18_bccd.py: same structure, same budget. mAP@0.5 0.855.
_base_ = [
    './_base_/models/rtmdet_rebnn_r18_fpn.py',
    './_base_/datasets/bccd_detection.py',
    './_base_/schedules/adam_16e.py',
    './_base_/methods/real.py',
    './_base_/runtime/default.py',
]
model = dict(
    backbone=dict(conv_cfg=dict(type='Conv2d')),
    neck=dict(binarize=None),
    bbox_head=dict(num_classes=3, conv_cfg=None))
