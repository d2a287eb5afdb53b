# python tools/train.py configs/faster_rcnn_real_r18_bccd.py
# The real-valued twin of faster_rcnn_rebnn_r18_bccd.py: same structure, same budget.
_base_ = ['./faster_rcnn_rebnn_r18_bccd.py']
model = dict(
    backbone=dict(conv_cfg=dict(type='Conv2d')),
    neck=dict(conv_cfg=None),
    rpn_head=dict(binarize=None))
custom_hooks = []
