# CIFAR-10 as class folders: train/CLASS/*.jpg and val/CLASS/*.jpg.
default_scope = 'mmpretrain'
custom_imports = dict(
    imports=['rebnn_mm', 'rebnn_mm.integrations.classification'],
    allow_failed_imports=False)

data_root = 'data/cifar10'
data_source = 'CIFAR-10 is at https://www.cs.toronto.edu/~kriz/cifar.html; save its images as class folders.'
data_preprocessor = dict(num_classes=10, mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], to_rgb=True)

train_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=128,
    num_workers=2,
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
    num_workers=2,
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
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator
auto_scale_lr = dict(enable=False, base_batch_size=128)
