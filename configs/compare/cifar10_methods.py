# python tools/compare.py configs/compare/cifar10_methods.py
# Methods on CIFAR-10: a ResNet-18 of a quarter of the width, from scratch with labels, crops of 24 pixels.
# On 10,000 training images a run takes about 4 minutes of one core (AMD EPYC, Zen 4).
metric = 'accuracy/top1'
baseline = 'react'
seeds = [0, 1, 2]
options = {
    'train_cfg.max_epochs': 6,
    'train_cfg.val_interval': 2,
    'model.backbone.base_channels': 16,
    'model.head.in_channels': 128,
    'train_dataloader.dataset.pipeline.1.crop_size': 24,
    'train_dataloader.dataset.pipeline.1.padding': None,
    'train_dataloader.batch_size': 64,
    'train_dataloader.num_workers': 0,
    'val_dataloader.num_workers': 0,
    'default_hooks.checkpoint.max_keep_ckpts': 1,
}
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
