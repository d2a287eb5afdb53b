# python tools/train.py configs/rtmdet_rebnn_r18_bccd_640.py
# rtmdet_rebnn_r18_bccd.py in images of 640x480, scaled and cut at random. Expected: not yet measured.
_base_ = [
    './_base_/models/rtmdet_rebnn_r18_fpn.py',
    './_base_/datasets/bccd_detection.py',
    './_base_/pipelines/square_640.py',
    './_base_/schedules/adam_16e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
model = dict(
    backbone=dict(conv_cfg={{_base_.binary_conv}}),
    neck=dict(binarize=dict(layer={{_base_.binary_conv}})),
    bbox_head=dict(num_classes=3, conv_cfg={{_base_.binary_conv}}))
optim_wrapper = dict(paramwise_cfg=dict(latent_lr_mult=10.0))
train_dataloader = dict(dataset=dict(pipeline={{_base_.square_train}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.square_test}}))
test_dataloader = val_dataloader
