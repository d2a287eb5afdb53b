# python tools/train.py configs/resnet20_react_cifar10.py
# resnet20_rebnn_cifar10.py with ReActNet's convolutions in the same blocks. Top-1 66.0 after 10
# epochs, 74.2 after 30 with latent_lr_mult=10 (two seeds).
_base_ = [
    './_base_/models/resnet20_rebnn.py',
    './_base_/datasets/cifar10.py',
    './_base_/schedules/adam_linear_256e.py',
    './_base_/methods/react.py',
    './_base_/runtime/default.py',
]
model = dict(backbone=dict(conv_cfg={{_base_.binary_conv}}))
