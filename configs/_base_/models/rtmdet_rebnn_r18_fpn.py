# A one-stage detector for one core: RTMDet's head on three levels of 128 channels, 1-bit in backbone, FPN and towers.
# Real-valued stay the stem, the shortcuts' and the FPN's 1x1 convolutions, which carry the signal past the signs, and
# the prediction layers: 7 % of the multiply-accumulates.
model = dict(
    type='RTMDet',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32),
    backbone=dict(type='ReBNNResNet', depth=18, conv_cfg=dict(type='ReBNNConv2d'), out_indices=(1, 2, 3)),
    # the norm keeps the maps around zero, where signs carry information: no norm in front of the sign
    neck=dict(
        type='Binarized',
        base='FPN',
        binarize=dict(
            include='fpn_convs',
            types='Conv2d',
            input_norm=False,
            layer=dict(type='ReBNNConv2d', shortcut=True)),
        in_channels=[128, 256, 512],
        out_channels=128,
        num_outs=3,
        norm_cfg=dict(type='BN')),
    # one tower for all levels with norms of their own, so that signs fit each; a PReLU keeps what is below zero
    bbox_head=dict(
        type='RTMDetSepBNHead',
        num_classes=80,
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        share_conv=True,
        pred_kernel_size=1,
        exp_on_reg=True,
        with_objectness=False,
        conv_cfg=dict(type='ReBNNConv2d', shortcut=True),
        norm_cfg=dict(type='BN'),
        act_cfg=dict(type='PReLU', num_parameters=128),
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0)),
    train_cfg=dict(
        assigner=dict(type='DynamicSoftLabelAssigner', topk=13), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.6), max_per_img=100))
