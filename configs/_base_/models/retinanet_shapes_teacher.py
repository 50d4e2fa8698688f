# The teacher: the same network, three times as wide.
_base_ = './retinanet_shapes.py'
model = dict(
    backbone=dict(base_channels=48),
    neck=dict(in_channels=[48, 96, 192, 384], out_channels=96),
    bbox_head=dict(in_channels=96, feat_channels=96),
)
