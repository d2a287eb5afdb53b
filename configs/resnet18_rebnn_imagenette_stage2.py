# python tools/train.py configs/resnet18_rebnn_imagenette_stage2.py
# Stage two: weights 1-bit too, from stage one's. Expected top-1: not yet measured.
_base_ = [
    './_base_/models/resnet18_rebnn.py',
    './_base_/teachers/resnet18_imagenette.py',
    './_base_/datasets/imagenette.py',
    './_base_/schedules/adam_linear_256e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
model = dict(
    type='DistilledClassifier',
    teacher={{_base_.teacher}},
    backbone=dict(conv_cfg={{_base_.binary_conv}}),
    head=dict(num_classes=10))
train_cfg = dict(max_epochs=32, val_interval=8)
load_from = 'work_dirs/resnet18_rebnn_imagenette_stage1/latest.pth'
