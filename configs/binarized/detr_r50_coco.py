# python tools/train.py configs/binarized/detr_r50_coco.py
# MMDetection's DETR made 1-bit by one line, data and schedule's length as there. Expected: not yet measured.
_base_ = ['mmdet::detr/detr_r50_8xb2-150e_coco.py']
custom_imports = dict(imports=['rebnn_mm', 'rebnn_mm.integrations.detection'], allow_failed_imports=False)
model = dict(type='Binarized', base='DETR', binarize=dict(preset='transformer', keep_last=False))
# Adam without weight decay, which would pull latent weights over zero
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='LatentWeightConstructor',
    optimizer=dict(type='Adam', lr=1e-4, weight_decay=0.0),
    clip_grad=dict(max_norm=10.0, norm_type=2))
# beside the stock config's own hooks
default_hooks = dict(balance=dict(type='BalanceHook', magnitude='gradient'))
