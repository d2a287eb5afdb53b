# python tools/train.py configs/resnet18_rebnn_imagenette_stage1.py
# Stage one of two at a size that CPUs train: 1-bit activations, real-valued weights. Expected top-1: not yet measured.
_base_ = [
    './_base_/models/resnet18_rebnn.py',
    './_base_/teachers/resnet18_imagenette.py',
    './_base_/datasets/imagenette.py',
    './_base_/schedules/adam_linear_256e_decay.py',
    './_base_/methods/real.py',
    './_base_/runtime/default.py',
]
model = dict(
    type='DistilledClassifier',
    teacher={{_base_.teacher}},
    backbone=dict(conv_cfg=dict(type='ReBNNConv2d', activation_only=True)),
    head=dict(num_classes=10))
train_cfg = dict(max_epochs=32, val_interval=8)
