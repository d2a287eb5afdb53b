# python tools/train.py configs/retinanet_rebnn_r18_coco.py
# A new detector by inheritance: an mmdet model with 1-bit backbone and FPN. Expected: not yet measured.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    './_base_/datasets/coco_detection.py',
    './_base_/schedules/adam_12e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
model = dict(
    backbone=dict(
        _delete_=True, type='ReBNNResNet', depth=18, conv_cfg={{_base_.binary_conv}}, out_indices=(0, 1, 2, 3)),
    neck=dict(
        in_channels=[64, 128, 256, 512],
        conv_cfg=dict(type={{_base_.binary_conv.type}}, shortcut=True),
        norm_cfg=dict(type='BN')))
