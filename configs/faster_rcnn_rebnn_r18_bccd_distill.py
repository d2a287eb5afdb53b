# python tools/train.py configs/faster_rcnn_rebnn_r18_bccd_distill.py
# FPN maps learn from those of the real-valued twin, trained before. Expected: not yet measured.
_base_ = ['./faster_rcnn_rebnn_r18_bccd.py']
model = dict(
    type='DistilledTwoStageDetector',
    teacher=dict(
        config='configs/faster_rcnn_real_r18_bccd.py', checkpoint='work_dirs/faster_rcnn_real_r18_bccd/latest.pth'))
