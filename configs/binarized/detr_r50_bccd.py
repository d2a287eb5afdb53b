# python tools/train.py configs/binarized/detr_r50_bccd.py
# MMDetection's DETR made 1-bit by one line, from scratch on blood cells (BCCD, 320x240). mAP@0.5 0.018 after 8 epochs, its twin
# 0.001: a DETR needs hundreds of them.
# The real-valued twin: --cfg-options model.binarize=None custom_hooks=[]
_base_ = [
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/adam_16e.py',
    '../_base_/methods/rebnn.py',
    '../_base_/runtime/default.py',
]
model = dict(
    type='Binarized',
    base='mmdet::detr/detr_r50_8xb2-150e_coco.py',
    binarize=dict(preset='transformer', keep_last=False),
    backbone=dict(init_cfg=None, frozen_stages=-1, norm_eval=False, norm_cfg=dict(requires_grad=True)),
    bbox_head=dict(num_classes=3))
# DETR's own
optim_wrapper = dict(optimizer=dict(lr=1e-4), clip_grad=dict(max_norm=0.1))
