# adam_12e.py for small data sets: 100 iterations of warm-up, an evaluation every fourth epoch.
_base_ = ['./adam_12e.py']
train_cfg = dict(max_epochs=16, val_interval=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, convert_to_iter_based=True)]
