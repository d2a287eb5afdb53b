# python tools/train.py configs/resnet20_rebnn_cifar10.py
# 1-bit ResNet-20, one stage, from scratch with labels. Top-1 66.9 after 10 epochs, 73.2 after 30
# with latent_lr_mult=30 (two seeds).
_base_ = [
    './_base_/models/resnet20_rebnn.py',
    './_base_/datasets/cifar10.py',
    './_base_/schedules/adam_linear_256e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
model = dict(backbone=dict(conv_cfg={{_base_.binary_conv}}))
