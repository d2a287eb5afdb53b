# python tools/train.py configs/fcos_rebnn_r18_coco.py
# MMDetection's anchor-free FCOS with 1-bit backbone and FPN. Expected: not yet measured.
_base_ = [
    './_base_/models/fcos_rebnn_r18_fpn.py',
    './_base_/datasets/coco_detection.py',
    './_base_/schedules/adam_12e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
model = dict(backbone=dict(conv_cfg={{_base_.binary_conv}}), neck=dict(conv_cfg={{_base_.binary_conv}}))
