# The embedded teacher: the student's network, three times as wide in the backbone and twice behind it.
_base_ = [
    '../_base_/models/gfl_shapes.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/shapes_teacher.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        base_channels=24,
        init_cfg=dict(checkpoint='{{ fileDirname }}/weights/retinanet_teacher-4cb601e1.pth'),
    ),
    neck=dict(in_channels=[24, 48, 96, 192], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64),
)
