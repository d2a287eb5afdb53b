# The paper's schedule: Adam from 1e-3 linearly to 0, no weight decay (it would pull latent weights over zero).
# The scheduler ends with train_cfg.max_epochs, so a shorter run needs only --cfg-options train_cfg.max_epochs=N.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='LatentWeightConstructor',
    optimizer=dict(type='Adam', lr=1e-3, weight_decay=0.0))
param_scheduler = dict(type='LinearLR', start_factor=1.0, end_factor=0.0, by_epoch=True, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=256, val_interval=1)
val_cfg = dict()
test_cfg = dict()
