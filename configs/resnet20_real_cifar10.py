# python tools/train.py configs/resnet20_real_cifar10.py
# The real-valued twin of resnet20_rebnn_cifar10.py. Expected top-1: not yet measured.
_base_ = ['./resnet18_real_cifar10.py']
model = dict(backbone=dict(depth=20, base_channels=16), head=dict(in_channels=64))
