# python tools/train.py configs/rtmdet_rebnn_r18_coco_320.py
# A one-stage detector for one core on COCO, images of at most 320x320. Expected: not yet measured.
_base_ = [
    './_base_/models/rtmdet_rebnn_r18_fpn.py',
    './_base_/datasets/coco_detection.py',
    './_base_/pipelines/square_320.py',
    './_base_/schedules/adam_12e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
model = dict(
    backbone=dict(conv_cfg={{_base_.binary_conv}}),
    neck=dict(binarize=dict(layer={{_base_.binary_conv}})),
    bbox_head=dict(conv_cfg={{_base_.binary_conv}}))
train_dataloader = dict(batch_size=16, dataset=dict(pipeline={{_base_.square_train}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.square_test}}))
test_dataloader = val_dataloader
