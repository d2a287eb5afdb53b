# ImageNet as class folders: train/CLASS/*.jpg and val/CLASS/*.jpg.
default_scope = 'mmpretrain'
custom_imports = dict(
    imports=['rebnn_mm', 'rebnn_mm.integrations.classification'],
    allow_failed_imports=False)

data_root = 'data/imagenet'
data_source = 'ImageNet (ILSVRC2012) is at https://image-net.org/download; sort its validation images into class folders.'
data_preprocessor = dict(num_classes=1000, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)

train_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='RandomResizedCrop', scale=224, crop_ratio_range=(0.08, 1.0)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='ResizeEdge', scale=256, edge='short'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=False,
    worker_init_fn=dict(type='seed_worker'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CheckedImageFolder',
        data_root=data_root,
        data_prefix='train',
        source=data_source,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CheckedImageFolder',
        data_root=data_root,
        data_prefix='val',
        same_classes_as='train',
        source=data_source,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
auto_scale_lr = dict(enable=False, base_batch_size=512)
