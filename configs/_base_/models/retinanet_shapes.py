# RetinaNet for the embedded shapes at 128 px: ResNet-18 of width 8, trained from scratch.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
model = dict(
    backbone=dict(
        depth=18,
        base_channels=8,
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(
        num_classes=10,
        in_channels=32,
        feat_channels=32,
        stacked_convs=2,
        # Objects are 10 to 120 px wide: anchors start at 16 px instead of COCO's 32.
        anchor_generator=dict(octave_base_scale=2, scales_per_octave=3),
    ),
    test_cfg=dict(max_per_img=50),
)
