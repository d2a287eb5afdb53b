# what configs/faster_rcnn_real_r18_bccd.py leaves
teacher = dict(
    config='configs/faster_rcnn_real_r18_bccd.py', checkpoint='work_dirs/faster_rcnn_real_r18_bccd/latest.pth')
