# Imagenette in images of 96x96, 16 epochs from scratch.
metric = 'accuracy/top1'
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
