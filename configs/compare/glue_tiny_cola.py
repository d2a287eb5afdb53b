# python tools/compare.py configs/compare/glue_tiny_cola.py
# Matthews correlation on CoLA, in percent.
_base_ = ['./_base_/glue_tiny.py']
options = {
    'task': 'cola',
    'train_cfg.max_epochs': 3,
    'default_hooks.checkpoint.interval': 3,
    'train_dataloader.batch_size': 32,
}
