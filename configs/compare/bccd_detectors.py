# python tools/compare.py configs/compare/bccd_detectors.py
# Faster R-CNN on BCCD: the real-valued twin, ReBNN, and ReBNN without the reconstruction term.
# About 40 minutes of one core a run.
metric = 'pascal_voc/mAP'
baseline = 'rebnn'
seeds = [0, 1, 2]
options = {'train_cfg.val_interval': 2}
_watched = {'default_hooks.oscillation.type': 'OscillationHook', 'default_hooks.oscillation.interval': 20}
entries = dict(
    real=dict(config='../faster_rcnn_real_r18_bccd.py'),
    rebnn=dict(config='../faster_rcnn_rebnn_r18_bccd.py', options=_watched),
    gamma0=dict(config='../faster_rcnn_rebnn_r18_bccd.py', options={**_watched, 'custom_hooks.0.gamma': 0.0}),
)
