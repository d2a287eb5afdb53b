# python tools/train.py configs/resnet20_react_cifar10.py
# resnet20_rebnn_cifar10.py with ReActNet's layer. Expected top-1: not yet measured.
_base_ = ['./resnet18_react_cifar10.py']
model = dict(backbone=dict(depth=20, base_channels=16), head=dict(in_channels=64))
