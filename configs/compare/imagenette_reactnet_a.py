# python tools/compare.py configs/compare/imagenette_reactnet_a.py
# ReActNet-A on Imagenette at 96 pixels, from labels: ReBNN's layer, ReActNet's own, and the real-valued twin. On 1,000 images an epoch takes
# one core 50 s.
metric = 'accuracy/top1'
baseline = 'rebnn'
seeds = [0]
options = {
    'train_cfg.max_epochs': 16,
    'train_cfg.val_interval': 4,
    'train_dataloader.dataset.pipeline.1.scale': 96,
    'val_dataloader.dataset.pipeline.1.scale': 110,
    'val_dataloader.dataset.pipeline.2.crop_size': 96,
    'train_dataloader.num_workers': 0,
    'val_dataloader.num_workers': 0,
    'default_hooks.checkpoint.max_keep_ckpts': 1,
}
entries = dict(
    rebnn=dict(config='../reactnet_a_rebnn_imagenette.py'),
    real=dict(config='../reactnet_a_real_imagenette.py'),
    react=dict(config='../reactnet_a_react_imagenette.py'),
)
