# python tools/compare.py configs/compare/cifar10_fast_latent.py
# Do the start of gamma and the size that latent weights start from still matter where these move fast (cifar10_latent_lr.py)?
# `late`: gamma from half of the training on; `small`: torch's own initialisation, 2.4 times smaller than Kaiming's.
# custom_hooks.0 is the BalanceHook.
_base_ = ['./_base_/cifar10_small.py']
baseline = 'gradient_x30'
_react = '../resnet18_react_cifar10.py'
_rebnn = '../resnet18_rebnn_cifar10.py'
_x10 = {'optim_wrapper.paramwise_cfg.latent_lr_mult': 10}
_x30 = {'optim_wrapper.paramwise_cfg.latent_lr_mult': 30}
_late = {'custom_hooks.0.begin': 0.5, 'custom_hooks.0.ramp': 0.2}
_small = {
    'model.backbone.init_cfg.type': 'Kaiming',
    'model.backbone.init_cfg.layer': 'Conv2d',
    'model.backbone.init_cfg.a': 2.236,
    'model.backbone.init_cfg.nonlinearity': 'leaky_relu',
    'model.backbone.init_cfg.distribution': 'uniform',
}
entries = dict(
    gradient_late_x30=dict(config=_rebnn, options={**_x30, **_late}),
    gradient_small_x30=dict(config=_rebnn, options={**_x30, **_small}),
    gradient_small_x10=dict(config=_rebnn, options={**_x10, **_small}),
    react_small_x10=dict(config=_react, options={**_x10, **_small}),
    gradient_x30=dict(config=_rebnn, options=_x30),
    react_x10=dict(config=_react, options=_x10),
)
