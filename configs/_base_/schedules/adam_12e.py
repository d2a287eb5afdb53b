# Adam, 500 iterations of warm-up, cosine to 0. No weight decay: it would pull latent weights over the sign.
# The cosine ends with train_cfg.max_epochs, so a shorter run needs only --cfg-options train_cfg.max_epochs=N.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='LatentWeightConstructor',
    optimizer=dict(type='Adam', lr=1e-3, weight_decay=0.0),
    clip_grad=dict(max_norm=10.0, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, convert_to_iter_based=True)]
auto_scale_lr = dict(enable=False, base_batch_size=16)
