# faster_rcnn_rebnn_r18_fpn.py at a size that two CPU cores train: FPN and heads narrower, fewer proposals and samples.
_base_ = ['./faster_rcnn_rebnn_r18_fpn.py']
model = dict(
    neck=dict(out_channels=96),
    rpn_head=dict(in_channels=96, feat_channels=96),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=96),
        bbox_head=dict(in_channels=96, fc_out_channels=256)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)))
