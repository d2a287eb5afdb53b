# python tools/train.py configs/reactnet_a_react_imagenette.py
# ReActNet-A with ReActNet's own layer on Imagenette, one stage with labels. Expected top-1: not yet measured.
_base_ = [
    './_base_/models/reactnet_a.py',
    './_base_/datasets/imagenette.py',
    './_base_/schedules/adam_linear_256e.py',
    './_base_/methods/react.py',
    './_base_/runtime/default.py',
]
model = dict(backbone=dict(conv_cfg={{_base_.binary_conv}}), head=dict(num_classes=10))
train_cfg = dict(max_epochs=64, val_interval=8)
optim_wrapper = dict(paramwise_cfg=dict(latent_lr_mult=10.0))
