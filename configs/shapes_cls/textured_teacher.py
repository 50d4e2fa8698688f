# The embedded teacher: the student's network, four times as wide.
_base_ = [
    '../_base_/models/textured_cls.py',
    '../_base_/datasets/textured_cls.py',
    '../_base_/schedules/shapes_cls.py',
    'mmpretrain::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(stem_channels=32, base_channels=32),
    head=dict(in_channels=128),
)
optim_wrapper = dict(optimizer=dict(lr=5e-3))
