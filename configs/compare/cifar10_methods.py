# python tools/compare.py configs/compare/cifar10_methods.py
# Methods on CIFAR-10.
_base_ = ['./_base_/cifar10_small.py']
baseline = 'react'
_once = [0]
entries = dict(
    react=dict(config='../resnet18_react_cifar10.py'),
    rebnn=dict(config='../resnet18_rebnn_cifar10.py'),
    real=dict(config='../resnet18_real_cifar10.py', seeds=_once),
    bnn=dict(config='../resnet18_bnn_cifar10.py', seeds=_once),
    xnor=dict(config='../resnet18_xnor_cifar10.py', seeds=_once),
    bireal=dict(config='../resnet18_bireal_cifar10.py', seeds=_once),
    irnet=dict(config='../resnet18_irnet_cifar10.py', seeds=_once),
    recu=dict(config='../resnet18_recu_cifar10.py', seeds=_once),
)
