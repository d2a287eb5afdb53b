# python tools/compare.py configs/compare/bccd_heads.py
# Heads of one-stage detectors on one 1-bit backbone and neck, and RTMDet's with a fourth level of stride 4, on BCCD.
# 20 to 40 minutes of one core a run.
metric = 'pascal_voc/mAP'
baseline = 'rtmdet'
seeds = [0]
options = {'default_hooks.checkpoint.max_keep_ckpts': 1}
entries = dict(
    rtmdet=dict(config='../rtmdet_rebnn_r18_bccd.py'),
    rtmdet_stride4=dict(config='../rtmdet_rebnn_r18_bccd_stride4.py'),
    fcos=dict(config='../fcos_rebnn_r18_bccd.py'),
    atss=dict(config='../atss_rebnn_r18_bccd.py'),
    retinanet=dict(config='../retinanet_rebnn_r18_bccd.py'),
)
