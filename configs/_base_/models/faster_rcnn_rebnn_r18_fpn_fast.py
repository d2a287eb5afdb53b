# faster_rcnn_rebnn_r18_fpn.py for one core: 300 proposals, and the RoI head's two linear layers are 1-bit too.
_base_ = ['./faster_rcnn_rebnn_r18_fpn.py']
model = dict(
    roi_head=dict(
        bbox_head=dict(
            type='Binarized',
            base='Shared2FCBBoxHead',
            binarize=dict(include='shared_fcs', types='Linear', layer=dict(type='ReBNNLinear', shortcut=True)))),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=300)))
