# python tools/compare.py configs/compare/bccd_detectors.py
# Faster R-CNN on BCCD: the real-valued twin, ReBNN, and ReActNet's layer in its place, with latent weights that learn as fast as all else and ten
# times faster, and with 1-bit linear layers. 24 to 40 minutes of one core a run.
metric = 'pascal_voc/mAP'
baseline = 'react'
seeds = [0, 1, 2]
options = {'train_cfg.val_interval': 2}
_x1 = {'optim_wrapper.paramwise_cfg.latent_lr_mult': 1}
_x10 = {'optim_wrapper.paramwise_cfg.latent_lr_mult': 10}
# the RoI head's two linear layers 1-bit, too
_fcs = {
    'model.roi_head.bbox_head.type': 'Binarized',
    'model.roi_head.bbox_head.base': 'Shared2FCBBoxHead',
    'model.roi_head.bbox_head.binarize.include': 'shared_fcs',
    'model.roi_head.bbox_head.binarize.types': 'Linear',
    'model.roi_head.bbox_head.binarize.layer.type': 'ReBNNLinear',
    'model.roi_head.bbox_head.binarize.layer.shortcut': True,
}
entries = dict(
    real=dict(config='../faster_rcnn_real_r18_bccd.py'),
    react=dict(config='../faster_rcnn_react_r18_bccd.py', options=_x1),
    rebnn=dict(config='../faster_rcnn_rebnn_r18_bccd.py', options=_x1),
    react_x10=dict(config='../faster_rcnn_react_r18_bccd.py', options=_x10),
    rebnn_x10=dict(config='../faster_rcnn_rebnn_r18_bccd.py', options=_x10),
    rebnn_x10_fcs=dict(config='../faster_rcnn_rebnn_r18_bccd.py', options={**_x10, **_fcs}),
)
