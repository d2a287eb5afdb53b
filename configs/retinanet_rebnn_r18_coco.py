# python tools/train.py configs/retinanet_rebnn_r18_coco.py
# A new detector by inheritance: any mmdet config, with a 1-bit backbone and FPN. Expected: not yet measured.
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', './_base_/methods/rebnn.py']
custom_imports = dict(imports=['rebnn_mm'], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type='ReBNNResNet', depth=18, out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[64, 128, 256, 512], conv_cfg=dict(type='ReBNNConv2d', shortcut=True), norm_cfg=dict(type='BN')))
optim_wrapper = dict(optimizer=dict(_delete_=True, type='Adam', lr=1e-3), clip_grad=dict(max_norm=10.0, norm_type=2))
