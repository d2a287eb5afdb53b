# python tools/train.py configs/rtmdet_rebnn_r18_bccd.py
# A one-stage detector for one core on blood cells (BCCD, VOC format) in images of 320x240; data in data/bccd/VOCdevkit. mAP@0.5 0.836.
_base_ = [
    './_base_/models/rtmdet_rebnn_r18_fpn.py',
    './_base_/datasets/bccd_detection.py',
    './_base_/schedules/adam_16e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
model = dict(
    backbone=dict(conv_cfg={{_base_.binary_conv}}),
    neck=dict(binarize=dict(layer={{_base_.binary_conv}})),
    bbox_head=dict(num_classes=3, conv_cfg={{_base_.binary_conv}}))
optim_wrapper = dict(paramwise_cfg=dict(latent_lr_mult=10.0))
