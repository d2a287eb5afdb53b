# python tools/train.py configs/faster_rcnn_rebnn_r18_bccd.py
# Blood cells (BCCD, VOC format) at a size that two CPU cores train in minutes; data in data/bccd/VOCdevkit. mAP@0.5 0.877.
_base_ = [
    './_base_/models/faster_rcnn_rebnn_r18_fpn_small.py',
    './_base_/datasets/bccd_detection.py',
    './_base_/schedules/adam_16e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
model = dict(
    backbone=dict(conv_cfg={{_base_.binary_conv}}),
    neck=dict(conv_cfg={{_base_.binary_conv}}),
    rpn_head=dict(binarize=dict(layer={{_base_.binary_conv}})),
    roi_head=dict(bbox_head=dict(num_classes=3)))
optim_wrapper = dict(paramwise_cfg=dict(latent_lr_mult=10.0))
