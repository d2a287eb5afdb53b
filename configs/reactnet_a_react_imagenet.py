# tools/dist_train.sh configs/reactnet_a_react_imagenet.py 4    (4 x 128 images)
# ReActNet-A in one stage from labels; tests released checkpoints (docs/recipe.md). Expected: not yet measured.
_base_ = [
    './_base_/models/reactnet_a.py',
    './_base_/datasets/imagenet.py',
    './_base_/schedules/adam_linear_256e.py',
    './_base_/methods/react.py',
    './_base_/runtime/default.py',
]
model = dict(backbone=dict(conv_cfg={{_base_.binary_conv}}))
