# python tools/train.py configs/swin_tiny_rebnn_imagenette_distill.py
# swin_tiny_rebnn_imagenette.py taught by the ResNet-18 of resnet18_real_imagenette.py. Top-1 37.1 (3 seeds) after 4 epochs of 1,000 images of 96x96.
_base_ = [
    './_base_/models/swin_tiny.py',
    './_base_/teachers/resnet18_imagenette.py',
    './_base_/datasets/imagenette.py',
    './_base_/schedules/adam_linear_256e.py',
    './_base_/methods/rebnn.py',
    './_base_/runtime/default.py',
]
model = dict(
    base='DistilledClassifier',
    teacher={{_base_.teacher}},
    binarize=dict(layer={{_base_.binary_linear}}))
train_cfg = dict(max_epochs=64, val_interval=8)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
