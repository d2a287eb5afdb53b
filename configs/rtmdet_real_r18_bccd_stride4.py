# python tools/train.py configs/rtmdet_real_r18_bccd_stride4.py
# The real-valued twin of rtmdet_rebnn_r18_bccd_stride4.py: same structure, same budget. mAP@0.5 0.882.
_base_ = [
    './_base_/models/rtmdet_rebnn_r18_fpn.py',
    './_base_/datasets/bccd_detection.py',
    './_base_/schedules/adam_16e.py',
    './_base_/methods/real.py',
    './_base_/runtime/default.py',
]
model = dict(
    backbone=dict(conv_cfg=dict(type='Conv2d'), out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[64, 128, 256, 512], num_outs=4, binarize=None),
    bbox_head=dict(num_classes=3, conv_cfg=None, anchor_generator=dict(strides=[4, 8, 16, 32])))
