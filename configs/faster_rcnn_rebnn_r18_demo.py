# python tools/train.py configs/faster_rcnn_rebnn_r18_demo.py
# Drawn shapes: first `python tools/make_demo_data.py --out data/demo`. Expected: not yet measured.
_base_ = ['./faster_rcnn_rebnn_r18_bccd.py']
metainfo = dict(classes=('disc', 'square', 'triangle'), palette=[(220, 20, 60), (0, 120, 220), (0, 160, 90)])
data_root = 'data/demo/VOCdevkit/'
train_dataloader = dict(dataset=dict(metainfo=metainfo, data_root=data_root))
val_dataloader = dict(dataset=dict(metainfo=metainfo, data_root=data_root))
test_dataloader = val_dataloader
