# python tools/train.py configs/faster_rcnn_rebnn_r18_bccd.py
# Blood cells (BCCD, VOC format) at a size that two CPU cores train in minutes; data in data/bccd/VOCdevkit.
_base_ = ['./faster_rcnn_rebnn_r18_voc07.py']
metainfo = dict(classes=('RBC', 'WBC', 'Platelets'), palette=[(220, 20, 60), (0, 120, 220), (0, 160, 90)])
data_root = 'data/bccd/VOCdevkit/'
train_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='RandomFlip', prob=[0.3, 0.3], direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadCheckedImage'),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
model = dict(
    neck=dict(out_channels=96),
    rpn_head=dict(in_channels=96, feat_channels=96),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=96),
        bbox_head=dict(in_channels=96, fc_out_channels=256, num_classes=3)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)))
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(metainfo=metainfo, data_root=data_root, filter_cfg=None, pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=0, dataset=dict(metainfo=metainfo, data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=16, val_interval=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, convert_to_iter_based=True)]
