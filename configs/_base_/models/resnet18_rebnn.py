model = dict(
    type='ImageClassifier',
    backbone=dict(type='ReBNNResNet', depth=18, conv_cfg=dict(type='ReBNNConv2d')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=1000, in_channels=512, topk=(1, 5), loss=dict(type='CrossEntropyLoss')))
