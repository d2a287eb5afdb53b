# Imagenette, ten classes of ImageNet, as class folders, with the recipe's augmentation.
# Another size: --cfg-options train_dataloader.dataset.pipeline.1.scale=128
#     val_dataloader.dataset.pipeline.1.scale=146 val_dataloader.dataset.pipeline.2.crop_size=128
_base_ = ['./imagenet_lighting.py']
data_root = 'data/imagenette_224'
data_source = 'Imagenette is at https://github.com/fastai/imagenette.'
data_preprocessor = dict(num_classes=10)
train_dataloader = dict(batch_size=32, num_workers=2, dataset=dict(data_root=data_root, source=data_source))
val_dataloader = dict(batch_size=32, num_workers=2, dataset=dict(data_root=data_root, source=data_source))
test_dataloader = val_dataloader
auto_scale_lr = dict(enable=False, base_batch_size=32)
