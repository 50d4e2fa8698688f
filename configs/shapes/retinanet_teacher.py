# The embedded teacher: the student's network, three times as wide in the backbone and twice behind it.
_base_ = [
    '../_base_/models/retinanet_shapes.py',
    '../_base_/datasets/shapes_detection.py',
    '../_base_/schedules/shapes_teacher.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(base_channels=24, init_cfg=None),
    neck=dict(in_channels=[24, 48, 96, 192], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64),
)
max_epochs = 16
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
