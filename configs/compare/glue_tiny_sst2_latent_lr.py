# python tools/compare.py configs/compare/glue_tiny_sst2_latent_lr.py
# How fast may the latent weights of a 1-bit BERT-tiny move? cifar10_latent_lr.py's question on SST-2, one epoch. Each method
# has the same settings to choose from by seed 0; the best get more seeds.
metric = 'glue/score'
baseline = 'react_x03'
seeds = [0]
options = {
    'task': 'sst2',
    'train_cfg.max_epochs': 1,
    'default_hooks.checkpoint.interval': 1,
    'train_dataloader.batch_size': 64,
}
_react = '../bert_react_tiny_glue_sst2.py'
_rebnn = '../bert_rebnn_tiny_glue_sst2.py'
_gradient = {'custom_hooks.0.magnitude': 'gradient'}
_x03 = {'optim_wrapper.paramwise_cfg.latent_lr_mult': 0.3}
_x3 = {'optim_wrapper.paramwise_cfg.latent_lr_mult': 3}
_four = [0, 1, 2, 3]
entries = dict(
    react_x03=dict(config=_react, options=_x03, seeds=_four),
    react_x1=dict(config=_react),
    react_x3=dict(config=_react, options=_x3),
    gradient_x03=dict(config=_rebnn, options={**_gradient, **_x03}),
    gradient_x1=dict(config=_rebnn, options=_gradient),
    gradient_x3=dict(config=_rebnn, options={**_gradient, **_x3}),
    weight_x03=dict(config=_rebnn, options=_x03),
    weight_x1=dict(config=_rebnn, seeds=_four),
    weight_x3=dict(config=_rebnn, options=_x3),
)
axis = dict(
    label='learning rate of latent weights, times',
    scale='log',
    lines=dict(
        ReActNet=[(0.3, 'react_x03'), (1, 'react_x1'), (3, 'react_x3')],
        gradient=[(0.3, 'gradient_x03'), (1, 'gradient_x1'), (3, 'gradient_x3')],
        weight=[(0.3, 'weight_x03'), (1, 'weight_x1'), (3, 'weight_x3')],
    ))
