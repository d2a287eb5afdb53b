# python tools/train.py configs/resnet18_rebnn_imagenette.py
# One stage with labels, what the two stages are compared with. Top-1 at 64x64, a quarter of the width, 16 epochs: 42.1 (five seeds).
_base_ = [
    './_base_/models/resnet18_rebnn.py',
    './_base_/datasets/imagenette.py',
    './_base_/schedules/adam_linear_256e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
model = dict(backbone=dict(conv_cfg={{_base_.binary_conv}}), head=dict(num_classes=10))
train_cfg = dict(max_epochs=64, val_interval=8)
optim_wrapper = dict(paramwise_cfg=dict(latent_lr_mult=10.0))
