# The teacher: the same network, four times as wide.
_base_ = './textured_cls.py'
model = dict(
    backbone=dict(stem_channels=32, base_channels=32),
    head=dict(in_channels=128),
)
