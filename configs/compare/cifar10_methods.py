# python tools/compare.py configs/compare/cifar10_methods.py
# Methods on CIFAR-10: a ResNet-18 of a quarter of the width, from scratch with labels, crops of 24 pixels.
# On 10,000 training images a run takes about 5 minutes of one core (AMD EPYC, Zen 4).
metric = 'accuracy/top1'
baseline = 'rebnn'
seeds = [0, 1, 2]
options = {
    'train_cfg.max_epochs': 8,
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
_watched = {'default_hooks.oscillation.type': 'OscillationHook', 'default_hooks.oscillation.interval': 20}
entries = dict(
    real=dict(config='../resnet18_real_cifar10.py'),
    rebnn=dict(config='../resnet18_rebnn_cifar10.py', options=_watched),
    rebnn_gradient=dict(config='../resnet18_rebnn_cifar10.py', options={
        **_watched, 'custom_hooks.0.magnitude': 'gradient'}),
)
