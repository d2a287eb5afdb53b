# python tools/train.py configs/atss_rebnn_r18_bccd.py
# rtmdet_rebnn_r18_bccd.py with ATSS's head, to compare heads. mAP@0.5 0.653.
_base_ = [
    './_base_/models/atss_rebnn_r18_small.py',
    './_base_/datasets/bccd_detection.py',
    './_base_/schedules/adam_16e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
model = dict(
    backbone=dict(conv_cfg={{_base_.binary_conv}}),
    neck=dict(binarize=dict(layer={{_base_.binary_conv}})),
    bbox_head=dict(num_classes=3, binarize=dict(layer={{_base_.binary_conv}})))
optim_wrapper = dict(paramwise_cfg=dict(latent_lr_mult=10.0))
