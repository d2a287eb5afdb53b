# python tools/train.py configs/rtmdet_real_r18_coco_320.py
# The real-valued twin of rtmdet_rebnn_r18_coco_320.py. Expected: not yet measured.
_base_ = [
    './_base_/models/rtmdet_rebnn_r18_fpn.py',
    './_base_/datasets/coco_detection.py',
    './_base_/pipelines/square_320.py',
    './_base_/schedules/adam_12e.py',
    './_base_/methods/real.py',
    './_base_/runtime/default.py',
]
model = dict(
    backbone=dict(conv_cfg=dict(type='Conv2d')),
    neck=dict(binarize=None),
    bbox_head=dict(conv_cfg=None))
train_dataloader = dict(batch_size=16, dataset=dict(pipeline={{_base_.square_train}}))
val_dataloader = dict(dataset=dict(pipeline={{_base_.square_test}}))
test_dataloader = val_dataloader
