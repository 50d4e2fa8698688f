# RetinaNet for the embedded shapes at 128 px: ResNet-18 of width 8, trained from scratch, which needs the norms
# (group norm in the head: its convolutions are shared by levels whose statistics differ).
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
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
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32, norm_cfg=dict(type='BN')),
    bbox_head=dict(
        num_classes=10,
        in_channels=32,
        feat_channels=32,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=8),
        # Objects are 10 to 120 px wide and turned by any angle: square anchors, from 16 px on instead of COCO's 32.
        anchor_generator=dict(octave_base_scale=2, ratios=[1.0]),
    ),
    test_cfg=dict(max_per_img=50),
)
