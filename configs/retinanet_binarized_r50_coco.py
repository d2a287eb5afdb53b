# tools/dist_train.sh configs/retinanet_binarized_r50_coco.py 8
# MMDetection's stock RetinaNet, 1-bit but for stem, shortcuts and prediction layers. Expected mAP: not yet measured.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    './_base_/datasets/coco_detection.py',
    './_base_/schedules/adam_12e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
# the preset lets all stages and norms train, which the stock config freezes, and excludes the prediction layers by name
model = dict(
    type='Binarized',
    base='RetinaNet',
    binarize=dict(preset='detector', types='Conv2d', layer={{_base_.binary_conv}}))
optim_wrapper = dict(optimizer=dict(lr=1e-4))
