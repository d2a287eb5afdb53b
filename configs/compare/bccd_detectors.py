# python tools/compare.py configs/compare/bccd_detectors.py
# Faster R-CNN on BCCD: the real-valued twin, ReBNN, and ReActNet's layer in its place. 24 to 40 minutes of one core a run.
metric = 'pascal_voc/mAP'
baseline = 'react'
seeds = [0, 1, 2]
options = {'train_cfg.val_interval': 2}
entries = dict(
    real=dict(config='../faster_rcnn_real_r18_bccd.py'),
    react=dict(config='../faster_rcnn_react_r18_bccd.py'),
    rebnn=dict(config='../faster_rcnn_rebnn_r18_bccd.py'),
)
