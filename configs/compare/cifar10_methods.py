# python tools/compare.py configs/compare/cifar10_methods.py
# Methods on CIFAR-10 with a ResNet-18 of a quarter of the width, from scratch with labels.
metric = 'accuracy/top1'
baseline = 'rebnn'
seeds = [0, 1, 2]
options = {
    'train_cfg.max_epochs': 6,
    'train_cfg.val_interval': 1,
    'model.backbone.base_channels': 16,
    'model.head.in_channels': 128,
    'train_dataloader.num_workers': 0,
    'val_dataloader.num_workers': 0,
}
entries = dict(
    real=dict(config='../resnet18_real_cifar10.py'),
    rebnn=dict(config='../resnet18_rebnn_cifar10.py'),
)
