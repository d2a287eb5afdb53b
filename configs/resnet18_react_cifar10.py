# python tools/train.py configs/resnet18_react_cifar10.py
# resnet18_rebnn_cifar10.py with ReActNet's convolutions in the same blocks. Expected top-1: not yet measured.
_base_ = [
    './_base_/models/resnet18_rebnn.py',
    './_base_/datasets/cifar10.py',
    './_base_/schedules/adam_linear_256e.py',
    './_base_/methods/react.py',
    './_base_/runtime/default.py',
]
model = dict(
    backbone=dict(stem='cifar', conv_cfg={{_base_.binary_conv}}),
    head=dict(num_classes=10, topk=(1, )))
