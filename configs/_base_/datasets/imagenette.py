# Imagenette, ten classes of ImageNet, as class folders, with the recipe's augmentation.
# Another size: --cfg-options train_dataloader.dataset.pipeline.1.scale=128
#     val_dataloader.dataset.pipeline.1.scale=146 val_dataloader.dataset.pipeline.2.crop_size=128
_base_ = ['./imagenet.py']
data_root = 'data/imagenette_224'
data_source = 'Imagenette is at https://github.com/fastai/imagenette.'
data_preprocessor = dict(num_classes=10)
# as in imagenet_lighting.py: eigenvalues in units of 0..255; images are BGR until the data preprocessor, so are the rows. Floats, as in uint8
# what leaves 0..255 would come back at the other end.
train_pipeline = [
    dict(type='LoadCheckedImage', to_float32=True),
    dict(type='RandomResizedCrop', scale=224, crop_ratio_range=(0.08, 1.0)),
    dict(
        type='Lighting',
        eigval=[55.4625, 4.7940, 1.1475],
        eigvec=[[-0.5836, -0.6948, 0.4203], [-0.5808, -0.0045, -0.8140], [-0.5675, 0.7192, 0.4009]],
        alphastd=0.1,
        to_rgb=False),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=2,
    dataset=dict(data_root=data_root, source=data_source, pipeline=train_pipeline))
val_dataloader = dict(batch_size=32, num_workers=2, dataset=dict(data_root=data_root, source=data_source))
test_dataloader = val_dataloader
auto_scale_lr = dict(enable=False, base_batch_size=32)
