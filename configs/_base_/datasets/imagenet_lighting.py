# ImageNet with AlexNet's colour jitter, as ReActNet and ReBNN train: to each image is added a multiple, drawn from
# N(0, 0.1^2), of each principal component of ImageNet's pixel values.
_base_ = ['./imagenet.py']
# eigenvalues in units of 0..255; images are BGR until the data preprocessor, so are the rows. Floats, as in uint8
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
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
