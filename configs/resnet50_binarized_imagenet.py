# tools/dist_train.sh configs/resnet50_binarized_imagenet.py 4    (4 x 128 images)
# MMPretrain's stock ResNet-50, all convolutions 1-bit but stem and shortcuts. Expected top-1: not yet measured.
_base_ = [
    'mmpretrain::_base_/models/resnet50.py',
    './_base_/datasets/imagenet.py',
    './_base_/schedules/adam_linear_256e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
model = dict(
    type='Binarized',
    base='ImageClassifier',
    binarize=dict(preset='classifier', types='Conv2d', layer={{_base_.binary_conv}}))
