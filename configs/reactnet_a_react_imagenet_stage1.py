# tools/dist_train.sh configs/reactnet_a_react_imagenet_stage1.py 4    (4 x 128 images)
# ReActNet-A, stage one of two: 1-bit activations, real-valued weights; see docs/recipe.md. Expected: not yet measured.
_base_ = [
    './_base_/models/reactnet_a.py',
    './_base_/teachers/resnet34_torchvision.py',
    './_base_/datasets/imagenet_lighting.py',
    './_base_/schedules/adam_linear_256e_decay.py',
    './_base_/methods/real.py',
    './_base_/runtime/default.py',
]
model = dict(
    type='DistilledClassifier',
    teacher={{_base_.teacher}},
    backbone=dict(conv_cfg=dict(type='ReBNNConv2d', activation_only=True)))
