# tools/dist_train.sh configs/resnet18_rebnn_imagenet.py 4    (4 x 128 images)
# 1-bit ResNet-18, one stage, from scratch with labels. Expected top-1: not yet measured.
_base_ = [
    './_base_/models/resnet18_rebnn.py',
    './_base_/datasets/imagenet.py',
    './_base_/schedules/adam_linear_256e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
model = dict(backbone=dict(conv_cfg={{_base_.binary_conv}}))
