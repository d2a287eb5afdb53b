# python tools/compare.py configs/compare/bccd_by_rule.py
# MMDetection's detectors made 1-bit by one line, each beside its real-valued twin, from scratch on BCCD. The two-stage ones have a ResNet-18,
# 96 channels, 200 proposals and 64 samples in place of a ResNet-50, 256, 1,000 and 512, for two cores, DETR a ResNet-18. An epoch takes one core a
# minute or two.
metric = 'pascal_voc/mAP'
baseline = 'rtmdet_real'
seeds = [0]
options = {
    'train_cfg.max_epochs': 8,
    'train_cfg.val_interval': 4,
    'default_hooks.checkpoint.max_keep_ckpts': 1,
}
_real = {'model.binarize': None, 'custom_hooks': []}
_two_stages = {
    'model.backbone.depth': 18,
    'model.neck.in_channels': [64, 128, 256, 512],
    'model.neck.out_channels': 96,
    'model.rpn_head.in_channels': 96,
    'model.rpn_head.feat_channels': 96,
    'model.roi_head.bbox_roi_extractor.out_channels': 96,
    'model.train_cfg.rpn_proposal.max_per_img': 200,
    'model.test_cfg.rpn.max_per_img': 200,
}
_mask = {
    **_two_stages,
    'model.roi_head.bbox_head.in_channels': 96,
    'model.roi_head.bbox_head.fc_out_channels': 256,
    'model.roi_head.mask_roi_extractor.out_channels': 96,
    'model.roi_head.mask_head.in_channels': 96,
    'model.roi_head.mask_head.conv_out_channels': 96,
    'model.train_cfg.rcnn.sampler.num': 64,
}
_stages = {
    'model.roi_head.bbox_head.{}.in_channels': 96,
    'model.roi_head.bbox_head.{}.fc_out_channels': 256,
    'model.train_cfg.rcnn.{}.sampler.num': 64,
}
_cascade = {**_two_stages, **{key.format(stage): value for stage in range(3) for key, value in _stages.items()}}
_detr = {'model.backbone.depth': 18, 'model.neck.in_channels': [512]}
_folder = '../binarized'
entries = dict(
    rtmdet_real=dict(config=f'{_folder}/rtmdet_s_bccd.py', options=_real),
    rtmdet_rebnn=dict(config=f'{_folder}/rtmdet_s_bccd.py'),
    rtmdet_rebnn_x1=dict(config=f'{_folder}/rtmdet_s_bccd.py', options={'optim_wrapper.paramwise_cfg.latent_lr_mult': 1}),
    yolox_real=dict(config=f'{_folder}/yolox_s_bccd.py', options=_real),
    yolox_rebnn=dict(config=f'{_folder}/yolox_s_bccd.py'),
    mask_rcnn_real=dict(config=f'{_folder}/mask_rcnn_r50_bccd.py', options={**_mask, **_real}),
    mask_rcnn_rebnn=dict(config=f'{_folder}/mask_rcnn_r50_bccd.py', options=_mask),
    cascade_rcnn_real=dict(config=f'{_folder}/cascade_rcnn_r50_bccd.py', options={**_cascade, **_real}),
    cascade_rcnn_rebnn=dict(config=f'{_folder}/cascade_rcnn_r50_bccd.py', options=_cascade),
    detr_real=dict(config=f'{_folder}/detr_r50_bccd.py', options={**_detr, **_real}),
    detr_rebnn=dict(config=f'{_folder}/detr_r50_bccd.py', options=_detr),
)
