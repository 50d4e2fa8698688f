# The teacher: the same network, four times as wide.
_base_ = './digits_cls.py'
model = dict(
    backbone=dict(stem_channels=16, base_channels=16),
    head=dict(in_channels=64),
)
