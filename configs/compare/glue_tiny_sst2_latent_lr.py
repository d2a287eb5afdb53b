# python tools/compare.py configs/compare/glue_tiny_sst2_latent_lr.py
# How fast may the latent weights of a 1-bit BERT-tiny move? cifar10_latent_lr.py's question on SST-2, one epoch.
metric = 'glue/score'
baseline = 'react_x1'
seeds = [0]
options = {
    'task': 'sst2',
    'train_cfg.max_epochs': 1,
    'default_hooks.checkpoint.interval': 1,
    'train_dataloader.batch_size': 64,
}
_react = '../bert_react_tiny_glue_sst2.py'
_rebnn = '../bert_rebnn_tiny_glue_sst2.py'
_gamma0 = {'custom_hooks.0.gamma': 0.0}
_gradient = {'custom_hooks.0.magnitude': 'gradient'}
_x3 = {'optim_wrapper.paramwise_cfg.latent_lr_mult': 3}
_x10 = {'optim_wrapper.paramwise_cfg.latent_lr_mult': 10}
_x30 = {'optim_wrapper.paramwise_cfg.latent_lr_mult': 30}
entries = dict(
    react_x1=dict(config=_react),
    gradient_x1=dict(config=_rebnn, options=_gradient),
    weight_x1=dict(config=_rebnn),
    react_x3=dict(config=_react, options=_x3),
    gradient_x3=dict(config=_rebnn, options={**_gradient, **_x3}),
    weight_x3=dict(config=_rebnn, options=_x3),
    react_x10=dict(config=_react, options=_x10),
    gradient_x10=dict(config=_rebnn, options={**_gradient, **_x10}),
    weight_x10=dict(config=_rebnn, options=_x10),
    react_x30=dict(config=_react, options=_x30),
    gradient_x30=dict(config=_rebnn, options={**_gradient, **_x30}),
    weight_x30=dict(config=_rebnn, options=_x30),
    gamma0_x1=dict(config=_rebnn, options=_gamma0),
    gamma0_x3=dict(config=_rebnn, options={**_gamma0, **_x3}),
    gamma0_x10=dict(config=_rebnn, options={**_gamma0, **_x10}),
    gamma0_x30=dict(config=_rebnn, options={**_gamma0, **_x30}),
)
axis = dict(
    label='learning rate of latent weights, times',
    scale='log',
    lines={
        'ReActNet': [(1, 'react_x1'), (3, 'react_x3'), (10, 'react_x10'), (30, 'react_x30')],
        'gamma 0': [(1, 'gamma0_x1'), (3, 'gamma0_x3'), (10, 'gamma0_x10'), (30, 'gamma0_x30')],
        'gradient': [(1, 'gradient_x1'), (3, 'gradient_x3'), (10, 'gradient_x10'), (30, 'gradient_x30')],
        'weight': [(1, 'weight_x1'), (3, 'weight_x3'), (10, 'weight_x10'), (30, 'weight_x30')],
    })
