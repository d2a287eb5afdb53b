# python tools/compare.py configs/compare/cifar10_gamma.py
# Ablation of gamma: none, constants, without the flip share, from gradient or weight, over an epoch, late in training.
# custom_hooks.0 is the BalanceHook.
_base_ = ['./_base_/cifar10_small.py']
baseline = 'gamma0'
_config = '../resnet18_rebnn_cifar10.py'
_gradient = {'custom_hooks.0.magnitude': 'gradient'}
_weight = {'custom_hooks.0.magnitude': 'weight'}
_late = {'custom_hooks.0.begin': 0.5, 'custom_hooks.0.ramp': 0.2}
_once = [0]
entries = dict(
    gamma0=dict(config=_config, options={'custom_hooks.0.gamma': 0.0}),
    gradient=dict(config=_config, options=_gradient),
    weight=dict(config=_config, options=_weight),
    weight_late=dict(config=_config, options={**_weight, **_late}),
    gradient_epoch=dict(config=_config, options={**_gradient, 'custom_hooks.0.flip_interval': 157}, seeds=_once),
    gradient_late=dict(
        config=_config, options={**_gradient, **_late, 'custom_hooks.0.flip_interval': 157}, seeds=_once),
    no_flip_share=dict(config=_config, options={**_gradient, 'custom_hooks.0.flip_weighted': False}, seeds=_once),
    constant_1e5=dict(config=_config, options={'custom_hooks.0.gamma': 1e-5}, seeds=_once),
    constant_1e4=dict(config=_config, options={'custom_hooks.0.gamma': 1e-4}, seeds=_once),
    constant_1e3=dict(config=_config, options={'custom_hooks.0.gamma': 1e-3}, seeds=_once),
    constant_1e2=dict(config=_config, options={'custom_hooks.0.gamma': 1e-2}, seeds=_once),
)
