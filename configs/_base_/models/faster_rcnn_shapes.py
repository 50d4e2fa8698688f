# Faster R-CNN for the embedded shapes at 128 px: ResNet-18 of width 8, trained from scratch, which needs the norms.
_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'
model = dict(
    backbone=dict(
        depth=18,
        base_channels=8,
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=dict(
            checkpoint='{{ fileDirname }}/../../shapes_cls/weights/resnet18_w8_backbone-e1a0ded3.pth',
            prefix='backbone.',
        ),
    ),
    # From stride 8 on, as the RetinaNet's: without P2 a step takes a third less.
    neck=dict(
        in_channels=[8, 16, 32, 64],
        out_channels=32,
        start_level=1,
        num_outs=4,
        norm_cfg=dict(type='BN'),
    ),
    rpn_head=dict(
        in_channels=32,
        feat_channels=32,
        # Objects are 10 to 120 px wide and turned by any angle: square anchors of 16, 32, 64 and 128 px.
        anchor_generator=dict(scales=[2], ratios=[1.0], strides=[8, 16, 32, 64]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            out_channels=32,
            featmap_strides=[8, 16, 32],
            finest_scale=28,  # RoIs below 56 px are read from stride 8, in at most 7 cells
            # A bin of a RoI on its own level is a cell or less; two points in each direction (0, adaptive) took half of
            # a step's time on the CPU.
            roi_layer=dict(sampling_ratio=1),
        ),
        bbox_head=dict(in_channels=32, fc_out_channels=128, num_classes=10),
    ),
    # An eighth of COCO's proposals, a sixteenth of its sampled RoIs.
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=250, max_per_img=125),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=250, max_per_img=125), rcnn=dict(max_per_img=50)),
)
