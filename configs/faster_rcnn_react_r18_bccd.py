# python tools/train.py configs/faster_rcnn_react_r18_bccd.py
# faster_rcnn_rebnn_r18_bccd.py with ReActNet's convolutions: same structure, same budget. mAP@0.5 0.872.
_base_ = ['./faster_rcnn_rebnn_r18_bccd.py']
binary_conv = dict(type='ReActConv2d')
model = dict(
    backbone=dict(conv_cfg=binary_conv),
    neck=dict(conv_cfg=binary_conv),
    rpn_head=dict(binarize=dict(layer=binary_conv)))
custom_hooks = [dict(type='OscillationHook')]
