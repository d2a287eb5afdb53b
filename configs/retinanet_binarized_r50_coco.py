# tools/dist_train.sh configs/retinanet_binarized_r50_coco.py 8
# MMDetection's stock RetinaNet, 1-bit in what it trains but the prediction layers. Expected mAP: not yet measured.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    './_base_/datasets/coco_detection.py',
    './_base_/schedules/adam_12e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
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
optim_wrapper = dict(optimizer=dict(lr=1e-4))
