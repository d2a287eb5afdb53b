# MMPretrain's Swin-tiny for ten classes, 1-bit by rule in all linear layers of its blocks; attention's scores stay real.
model = dict(
    type='Binarized',
    base='ImageClassifier',
    binarize=dict(preset='transformer', types='Linear', layer=dict(type='ReBNNLinear')),
    backbone=dict(type='SwinTransformer', arch='tiny', img_size=224, drop_path_rate=0.1),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=768,
        topk=(1, 5),
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')))
