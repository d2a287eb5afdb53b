# python tools/train.py configs/resnet20_rebnn_cifar10.py
# 1-bit ResNet-20 of papers on CIFAR-10. Expected top-1: not yet measured.
_base_ = ['./resnet18_rebnn_cifar10.py']
model = dict(backbone=dict(depth=20, base_channels=16), head=dict(in_channels=64))
