# The embedded teacher: the student's network, four times as wide.
_base_ = [
    '../_base_/models/digits_cls.py',
    '../_base_/datasets/digits_cls.py',
    '../_base_/schedules/shapes_cls.py',
    'mmpretrain::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(stem_channels=16, base_channels=16),
    head=dict(in_channels=64),
)
optim_wrapper = dict(optimizer=dict(lr=5e-3))
