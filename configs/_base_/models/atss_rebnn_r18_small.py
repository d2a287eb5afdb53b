# ATSS's head on the backbone and neck of rtmdet_rebnn_r18_fpn.py, with two 1-bit convolutions a tower.
_base_ = ['./rtmdet_rebnn_r18_fpn.py']
model = dict(
    type='ATSS',
    bbox_head=dict(
        _delete_=True,
        type='Binarized',
        base='ATSSHead',
        binarize=dict(include=('cls_convs', 'reg_convs'), types='Conv2d', layer=dict(type='ReBNNConv2d', shortcut=True)),
        num_classes=80,
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        norm_cfg=dict(type='BN'),
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=[8, 16, 32]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)),
    train_cfg=dict(
        _delete_=True, assigner=dict(type='ATSSAssigner', topk=9), allowed_border=-1, pos_weight=-1, debug=False))
