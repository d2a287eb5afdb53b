# python tools/train.py configs/fcos_rebnn_r18_coco.py
# An anchor-free detector by inheritance. Expected: not yet measured.
_base_ = ['mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', './_base_/methods/rebnn.py']
custom_imports = dict(imports=['rebnn_mm'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True, type='ReBNNResNet', depth=18, conv_cfg={{_base_.binary_conv}}, out_indices=(0, 1, 2, 3)),
    # no ReLU before a 1-bit convolution: every sign behind it would be +1
    neck=dict(
        in_channels=[64, 128, 256, 512],
        relu_before_extra_convs=False,
        conv_cfg=dict(type={{_base_.binary_conv.type}}, shortcut=True),
        norm_cfg=dict(type='BN')))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='Adam', lr=1e-3),
    paramwise_cfg=None,
    clip_grad=dict(max_norm=10.0, norm_type=2))
default_hooks = dict(checkpoint=dict(type='ResilientCheckpointHook', max_keep_ckpts=2, save_best='auto'))
