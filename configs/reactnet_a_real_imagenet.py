# tools/dist_train.sh configs/reactnet_a_real_imagenet.py 4    (4 x 128 images)
# The real-valued twin of ReActNet-A: same structure. Expected: not yet measured.
_base_ = [
    './_base_/models/reactnet_a.py',
    './_base_/datasets/imagenet.py',
    './_base_/schedules/adam_linear_256e.py',
    './_base_/methods/real.py',
    './_base_/runtime/default.py',
]
model = dict(backbone=dict(conv_cfg=dict(type='Conv2d')))
