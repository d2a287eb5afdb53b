# python tools/compare.py configs/compare/imagenette_transformers.py
# DeiT-tiny and Swin-tiny on Imagenette at 96 pixels: the real-valued twin, 1-bit from labels, and 1-bit with a teacher, a ResNet-18 that is
# trained here first. On 1,000 images an epoch takes 15 s of one core, Swin's a minute.
_base_ = ['./_base_/imagenette_96.py']
baseline = 'deit_rebnn'
seeds = [0, 1, 2]
_teacher = {'model.teacher.checkpoint': '{out}/teacher/seed0/latest.pth'}
_deit = {'model.backbone.img_size': 96}
# windows of 3: the maps are 24, 12, 6 and 3 pixels wide
_swin = {
    'model.backbone.img_size': 96,
    'model.backbone.window_size': 3,
    'train_cfg.max_epochs': 4,
    'train_cfg.val_interval': 2,
}
entries = dict(
    teacher=dict(config='../resnet18_real_imagenette.py', seeds=[0]),
    deit_real=dict(config='../deit_tiny_real_imagenette.py', options=_deit),
    deit_rebnn=dict(config='../deit_tiny_rebnn_imagenette.py', options=_deit),
    deit_distill=dict(
        config='../deit_tiny_rebnn_imagenette_distill.py', options={**_deit, **_teacher}, after='teacher'),
    swin_real=dict(config='../swin_tiny_real_imagenette.py', options=_swin),
    swin_rebnn=dict(config='../swin_tiny_rebnn_imagenette.py', options=_swin),
    swin_distill=dict(
        config='../swin_tiny_rebnn_imagenette_distill.py', options={**_swin, **_teacher}, after='teacher'),
)
