# tools/dist_train.sh configs/retinanet_binarized_r50_coco.py 8
# MMDetection's stock RetinaNet, 1-bit in what it trains but the prediction layers. Expected mAP: not yet measured.
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', './_base_/methods/rebnn.py']
custom_imports = dict(imports=['rebnn_mm'], allow_failed_imports=False)
# stem and stage 1 stay frozen and real-valued; norm_eval would keep the norms before the signs at their start values
model = dict(
    type='Binarized',
    base='RetinaNet',
    binarize=dict(
        include=['backbone.layer[234]', 'neck', 'bbox_head.cls_convs', 'bbox_head.reg_convs'],
        exclude=['*.downsample'],
        types='Conv2d',
        layer={{_base_.binary_conv}}),
    backbone=dict(norm_eval=False))
optim_wrapper = dict(optimizer=dict(_delete_=True, type='Adam', lr=1e-4))
train_dataloader = dict(persistent_workers=False, worker_init_fn=dict(type='seed_worker'))
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(type='ResilientCheckpointHook', max_keep_ckpts=2, save_best='auto'))
