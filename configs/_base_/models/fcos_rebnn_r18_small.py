# FCOS's head on the backbone and neck of rtmdet_rebnn_r18_fpn.py, with two 1-bit convolutions a tower.
_base_ = ['./rtmdet_rebnn_r18_fpn.py']
model = dict(
    type='FCOS',
    bbox_head=dict(
        _delete_=True,
        type='Binarized',
        base='FCOSHead',
        binarize=dict(include=('cls_convs', 'reg_convs'), types='Conv2d', layer=dict(type='ReBNNConv2d', shortcut=True)),
        num_classes=80,
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        strides=[8, 16, 32],
        regress_ranges=((-1, 64), (64, 128), (128, 1e8)),
        norm_on_bbox=True,
        centerness_on_reg=True,
        norm_cfg=dict(type='BN'),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=1.0),
        loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)),
    train_cfg=None)
