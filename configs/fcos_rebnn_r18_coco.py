# python tools/train.py configs/fcos_rebnn_r18_coco.py
# An anchor-free detector by inheritance. Expected: not yet measured.
_base_ = ['mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', './_base_/methods/rebnn.py']
custom_imports = dict(
    imports=['rebnn_mm', 'rebnn_mm.integrations.detection'],
    allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True, type='ReBNNResNet', depth=18, conv_cfg={{_base_.binary_conv}}, out_indices=(0, 1, 2, 3)),
    # no ReLU before a 1-bit convolution: every sign behind it would be +1
    neck=dict(
        in_channels=[64, 128, 256, 512],
        relu_before_extra_convs=False,
        conv_cfg=dict(type={{_base_.binary_conv.type}}, shortcut=True),
        norm_cfg=dict(type='BN')))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='Adam', lr=1e-3),
    paramwise_cfg=None,
    clip_grad=dict(max_norm=10.0, norm_type=2))

# A whole config of MMDetection brings its own data sets, workers and hooks. What the other configs take from
# _base_/datasets and _base_/runtime stands here: checked data, exact resume, a stop at NaN.
train_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    # degenerate boxes would turn a loss into NaN
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
train_dataloader = dict(
    persistent_workers=False,
    worker_init_fn=dict(type='seed_worker'),
    dataset=dict(type='CheckedCocoDataset', pipeline=train_pipeline))
val_dataloader = dict(persistent_workers=False, dataset=dict(type='CheckedCocoDataset', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='CheckedCocoMetric')
test_evaluator = val_evaluator
default_hooks = dict(
    checkpoint=dict(type='ResilientCheckpointHook', max_keep_ckpts=2, save_best='auto'),
    epoch_seed=dict(type='EpochSeedHook'),
    finite_loss=dict(type='FiniteLossHook'))
log_processor = dict(num_digits=6)  # gamma is of the order of 1e-5
randomness = dict(seed=0)
