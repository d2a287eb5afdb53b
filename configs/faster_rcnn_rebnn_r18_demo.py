# python tools/train.py configs/faster_rcnn_rebnn_r18_demo.py
# Drawn shapes, trained in minutes on a CPU; `make demo` draws them first. Expected: see docs/results.md.
_base_ = ['./faster_rcnn_rebnn_r18_bccd.py']
metainfo = dict(
    classes=('disc', 'square', 'triangle', 'star'),
    palette=[(220, 20, 60), (0, 90, 220), (0, 140, 70), (200, 140, 0)])
data_root = 'data/demo/VOCdevkit/'
train_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(160, 120), keep_ratio=True),
    dict(type='RandomFlip', prob=[0.3, 0.3], direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='Resize', scale=(160, 120), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
# images of 160x120: anchors of half the usual size
model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[4])),
    roi_head=dict(bbox_head=dict(num_classes=4)),
    train_cfg=dict(rcnn=dict(sampler=dict(num=64))))
train_dataloader = dict(dataset=dict(metainfo=metainfo, data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(metainfo=metainfo, data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=12, val_interval=6)
