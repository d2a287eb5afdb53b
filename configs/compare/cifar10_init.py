# python tools/compare.py configs/compare/cifar10_init.py
# Latent weights that start 2.4 times smaller (torch's own initialisation) under the rules of gamma and under ReActNet.
# custom_hooks.0 is the BalanceHook. Beside cifar10_gamma.py, which starts from Kaiming's size.
_base_ = ['./_base_/cifar10_small.py']
baseline = 'gamma0'
options = {
    'model.backbone.init_cfg.type': 'Kaiming',
    'model.backbone.init_cfg.layer': 'Conv2d',
    'model.backbone.init_cfg.a': 2.236,
    'model.backbone.init_cfg.nonlinearity': 'leaky_relu',
    'model.backbone.init_cfg.distribution': 'uniform',
}
_once = [0]
_weight = {'custom_hooks.0.magnitude': 'weight'}
_config = '../resnet18_rebnn_cifar10.py'
entries = dict(
    gamma0=dict(config=_config, options={'custom_hooks.0.gamma': 0.0}),
    gradient=dict(config=_config, options={'custom_hooks.0.magnitude': 'gradient'}, seeds=_once),
    weight=dict(config=_config, options=_weight, seeds=_once),
    weight_late=dict(config=_config, options={**_weight, 'custom_hooks.0.begin': 0.5, 'custom_hooks.0.ramp': 0.2}),
    weight_end=dict(config=_config, options={**_weight, 'custom_hooks.0.begin': 0.8, 'custom_hooks.0.ramp': 0.1}),
    react=dict(config='../resnet18_react_cifar10.py'),
)
