# tools/dist_train.sh configs/resnet50_binarized_imagenet.py 8
# MMPretrain's stock ResNet-50, all convolutions 1-bit but stem and shortcuts. Expected top-1: not yet measured.
_base_ = ['mmpretrain::resnet/resnet50_8xb32_in1k.py', './_base_/methods/rebnn.py']
custom_imports = dict(imports=['rebnn_mm'], allow_failed_imports=False)
model = dict(
    type='Binarized',
    base='ImageClassifier',
    binarize=dict(preset='classifier', types='Conv2d', layer={{_base_.binary_conv}}))
optim_wrapper = dict(optimizer=dict(_delete_=True, type='Adam', lr=1e-3))
train_dataloader = dict(persistent_workers=False, worker_init_fn=dict(type='seed_worker'))
randomness = dict(seed=0)
default_hooks = dict(checkpoint=dict(type='ResilientCheckpointHook', max_keep_ckpts=2, save_best='auto'))
