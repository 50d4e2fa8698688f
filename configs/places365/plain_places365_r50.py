# ResNet50: the teacher of *_r50_mv1.py.
_base_ = '../_base_/places365.py'
model = dict(
    backbone=dict(type='ResNet', depth=50, zero_init_residual=False), head=dict(in_channels=2048)
)
