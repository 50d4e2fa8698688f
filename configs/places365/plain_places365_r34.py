# ResNet34: the teacher of *_r34_r18.py.
_base_ = '../_base_/places365.py'
model = dict(
    backbone=dict(type='ResNet', depth=34, zero_init_residual=False), head=dict(in_channels=512)
)
