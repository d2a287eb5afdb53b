# python tools/compare.py configs/compare/cifar10_latent_lr.py
# How fast may latent weights move? Their learning rate times 1, 3, 10, 30 and 100, beside that of all other parameters, for
# ReActNet's layer and the rules of gamma. Each has the same settings to choose from by seed 0; the best get more seeds.
_base_ = ['./_base_/cifar10_small.py']
baseline = 'react_x10'
_react = '../resnet18_react_cifar10.py'
_rebnn = '../resnet18_rebnn_cifar10.py'
_gradient = {'custom_hooks.0.magnitude': 'gradient'}
_weight = {'custom_hooks.0.magnitude': 'weight'}
_late = {**_weight, 'custom_hooks.0.begin': 0.5, 'custom_hooks.0.ramp': 0.2}
_x3 = {'optim_wrapper.paramwise_cfg.latent_lr_mult': 3}
_x10 = {'optim_wrapper.paramwise_cfg.latent_lr_mult': 10}
_x30 = {'optim_wrapper.paramwise_cfg.latent_lr_mult': 30}
_x100 = {'optim_wrapper.paramwise_cfg.latent_lr_mult': 100}
_once = [0]
entries = dict(
    react_x1=dict(config=_react, seeds=_once),
    gradient_x1=dict(config=_rebnn, options=_gradient, seeds=_once),
    weight_x1=dict(config=_rebnn, options=_weight, seeds=_once),
    weight_late_x1=dict(config=_rebnn, options=_late, seeds=_once),
    react_x3=dict(config=_react, options=_x3, seeds=_once),
    gradient_x3=dict(config=_rebnn, options={**_gradient, **_x3}, seeds=_once),
    weight_x3=dict(config=_rebnn, options={**_weight, **_x3}, seeds=_once),
    weight_late_x3=dict(config=_rebnn, options={**_late, **_x3}, seeds=_once),
    react_x10=dict(config=_react, options=_x10, seeds=[0, 1, 2, 3, 4]),
    gradient_x10=dict(config=_rebnn, options={**_gradient, **_x10}, seeds=_once),
    weight_x10=dict(config=_rebnn, options={**_weight, **_x10}),
    weight_late_x10=dict(config=_rebnn, options={**_late, **_x10}, seeds=_once),
    react_x30=dict(config=_react, options=_x30),
    gradient_x30=dict(config=_rebnn, options={**_gradient, **_x30}, seeds=[0, 1, 2, 3, 4]),
    weight_x30=dict(config=_rebnn, options={**_weight, **_x30}, seeds=_once),
    weight_late_x30=dict(config=_rebnn, options={**_late, **_x30}, seeds=[0, 1]),
    react_x100=dict(config=_react, options=_x100, seeds=[0, 1]),
    gradient_x100=dict(config=_rebnn, options={**_gradient, **_x100}, seeds=_once),
    weight_x100=dict(config=_rebnn, options={**_weight, **_x100}, seeds=_once),
    weight_late_x100=dict(config=_rebnn, options={**_late, **_x100}, seeds=_once),
)
axis = dict(
    label='learning rate of latent weights, times',
    scale='log',
    lines={
        'ReActNet': [(1, 'react_x1'), (3, 'react_x3'), (10, 'react_x10'), (30, 'react_x30'), (100, 'react_x100')],
        'gradient': [
            (1, 'gradient_x1'), (3, 'gradient_x3'), (10, 'gradient_x10'), (30, 'gradient_x30'), (100, 'gradient_x100')],
        'weight': [(1, 'weight_x1'), (3, 'weight_x3'), (10, 'weight_x10'), (30, 'weight_x30'), (100, 'weight_x100')],
        'weight, late': [
            (1, 'weight_late_x1'), (3, 'weight_late_x3'), (10, 'weight_late_x10'), (30, 'weight_late_x30'),
            (100, 'weight_late_x100')],
    })
