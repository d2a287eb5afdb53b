# tools/dist_train.sh configs/resnet18_real_imagenet.py 4    (4 x 128 images)
# real-valued twin of resnet18_rebnn_imagenet.py: same structure, plain convolutions. Expected top-1: not yet measured.
_base_ = [
    './_base_/models/resnet18_rebnn.py',
    './_base_/datasets/imagenet.py',
    './_base_/schedules/adam_linear_256e.py',
    './_base_/methods/real.py',
    './_base_/runtime/default.py',
]
model = dict(backbone=dict(conv_cfg={{_base_.binary_conv}}))
