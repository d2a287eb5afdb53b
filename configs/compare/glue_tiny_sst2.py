# python tools/compare.py configs/compare/glue_tiny_sst2.py
# Accuracy on SST-2, in percent.
_base_ = ['./_base_/glue_tiny.py']
options = {
    'task': 'sst2',
    'train_cfg.max_epochs': 1,
    'default_hooks.checkpoint.interval': 1,
    'train_dataloader.batch_size': 64,
}
entries = dict(
    rebnn_gradient=dict(config='../bert_rebnn_tiny_glue_sst2.py', options={'custom_hooks.0.magnitude': 'gradient'}))
