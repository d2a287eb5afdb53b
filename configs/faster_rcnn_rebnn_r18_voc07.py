# python tools/train.py configs/faster_rcnn_rebnn_r18_voc07.py
# VOC 2007 alone (trainval -> test); own data in VOC's format inherit this one. Expected: not yet measured on all of it.
_base_ = ['./faster_rcnn_rebnn_r18_voc.py']
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CheckedVOCDataset',
        data_root={{_base_.data_root}},
        ann_file='VOC2007/ImageSets/Main/trainval.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline={{_base_.train_pipeline}}))
