# tools/dist_train.sh configs/retinanet_binarized_r50_coco.py 8
# MMDetection's stock RetinaNet, 1-bit but for stem, shortcuts and prediction layers. Expected mAP: not yet measured.
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', './_base_/methods/rebnn.py']
custom_imports = dict(imports=['rebnn_mm'], allow_failed_imports=False)
# the preset lets all stages and norms train, which the stock config freezes, and excludes the prediction layers by name
model = dict(
    type='Binarized',
    base='RetinaNet',
    binarize=dict(preset='detector', types='Conv2d', layer={{_base_.binary_conv}}))
optim_wrapper = dict(optimizer=dict(_delete_=True, type='Adam', lr=1e-4))
train_dataloader = dict(persistent_workers=False, worker_init_fn=dict(type='seed_worker'))
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(type='ResilientCheckpointHook', max_keep_ckpts=2, save_best='auto'))
