# tools/dist_train.sh configs/reactnet_a_rebnn_imagenet_stage2.py 4    (4 x 128 images)
# ReActNet-A, stage two: weights 1-bit too, from stage one's. Expected top-1: not yet measured.
_base_ = [
    './_base_/models/reactnet_a.py',
    './_base_/teachers/resnet34_torchvision.py',
    './_base_/datasets/imagenet_lighting.py',
    './_base_/schedules/adam_linear_256e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
model = dict(
    type='DistilledClassifier',
    teacher={{_base_.teacher}},
    backbone=dict(conv_cfg={{_base_.binary_conv}}))
load_from = 'work_dirs/reactnet_a_react_imagenet_stage1/latest.pth'
