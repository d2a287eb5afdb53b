# ReActNet-A: MobileNet-V1's widths, 1-bit but for the stem and the classifier (Liu et al., ECCV 2020, section 4.1)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ReBNNMobileNet', conv_cfg=dict(type='ReBNNConv2d')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=1000, in_channels=1024, topk=(1, 5), loss=dict(type='CrossEntropyLoss')))
