# Adam, 100 iterations of warm-up, linear decay to 0. No weight decay: it would pull latent weights over the sign.
# The decay ends with train_cfg.max_epochs, so a shorter run needs only --cfg-options train_cfg.max_epochs=N.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=20, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='LatentWeightConstructor',
    optimizer=dict(type='Adam', lr=2e-4, weight_decay=0.0),
    clip_grad=dict(max_norm=1.0, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='LinearLR', start_factor=1.0, end_factor=0.0, by_epoch=True, begin=0, convert_to_iter_based=True)]
