# python tools/compare.py configs/compare/cifar10_controls.py
# What does ReBNN's rule gain from where latent weights move fast (cifar10_latent_lr.py)? Each entry takes one part away:
# gamma, a learned alpha, or both; and ReActNet's latent weights are held within [-1, 1]. custom_hooks.0 is the BalanceHook.
# `silent`: a weight decay for weights alone whose sign has long not flipped (OvSW's).
# `decay`: ReActNet's weight decay of stage one. Weights beyond 1 have no other gradient, and Adam makes full steps of it.
# `alpha_slow`: a step of alpha is 0.02 of other steps, as where alpha is 0.02 |s| and s is learned.
# Those with `average` are evaluated as averages of their weights (EMA), after each epoch; their checkpoints hold both models.
_base_ = ['./_base_/cifar10_small.py']
baseline = 'gradient_alpha_fixed_x30'
_react = '../resnet18_react_cifar10.py'
_rebnn = '../resnet18_rebnn_cifar10.py'
_gradient = {'custom_hooks.0.magnitude': 'gradient'}
_gamma0 = {'custom_hooks.0.gamma': 0.0}
_fixed = {'optim_wrapper.paramwise_cfg.custom_keys.alpha.lr_mult': 0.0}
_clip = {'default_hooks.clip.type': 'LatentClipHook'}
_silent = {'default_hooks.silent.type': 'SilentDecayHook'}
_soon = {**_silent, 'default_hooks.silent.momentum': 0.99}
_decay = {'optim_wrapper.optimizer.weight_decay': 5e-6}
_slow = {'optim_wrapper.paramwise_cfg.custom_keys.alpha.lr_mult': 0.02}
_average = {
    'default_hooks.average.type': 'EMAHook',
    'default_hooks.average.momentum': 0.01,
    'default_hooks.average.update_buffers': True,
    'train_cfg.val_interval': 1,
}
_x10 = {'optim_wrapper.paramwise_cfg.latent_lr_mult': 10}
_x30 = {'optim_wrapper.paramwise_cfg.latent_lr_mult': 30}
_x100 = {'optim_wrapper.paramwise_cfg.latent_lr_mult': 100}
entries = dict(
    gamma0_x30=dict(config=_rebnn, options={**_gamma0, **_x30}),
    gradient_alpha_fixed_x30=dict(config=_rebnn, options={**_gradient, **_fixed, **_x30}),
    gradient_average_x30=dict(config=_rebnn, options={**_gradient, **_average, **_x30}),
    gamma0_alpha_fixed_x30=dict(config=_rebnn, options={**_gamma0, **_fixed, **_x30}),
    react_clip_x30=dict(config=_react, options={**_clip, **_x30}),
    react_clip_x100=dict(config=_react, options={**_clip, **_x100}),
    react_silent_x30=dict(config=_react, options={**_silent, **_x30}),
    react_silent_x100=dict(config=_react, options={**_silent, **_x100}),
    react_silent_soon_x100=dict(config=_react, options={**_soon, **_x100}),
    gradient_alpha_slow_x30=dict(config=_rebnn, options={**_gradient, **_slow, **_x30}),
    react_decay_x30=dict(config=_react, options={**_decay, **_x30}),
    react_decay_x100=dict(config=_react, options={**_decay, **_x100}),
    react_average_x10=dict(config=_react, options={**_average, **_x10}),
)
