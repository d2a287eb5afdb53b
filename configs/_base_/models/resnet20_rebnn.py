# The ResNet-20 of papers on CIFAR (He et al., CVPR 2016, section 4.2), for images of 32x32.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ReBNNResNet', depth=20, stem='cifar', base_channels=16, conv_cfg=dict(type='ReBNNConv2d')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=10, in_channels=64, topk=(1, ), loss=dict(type='CrossEntropyLoss')))
