# Drawn shapes in images of 160x120 as VOC's; tools/make_demo_data.py draws them.
_base_ = ['./voc07_detection.py']
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
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(metainfo=metainfo, data_root=data_root, filter_cfg=None, pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, dataset=dict(metainfo=metainfo, data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
