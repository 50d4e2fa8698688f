# ResNet50: the teacher of *_r50_mv1.py.
_base_ = '../_base_/places365.py'
model = dict(backbone=dict(type='ResNet', depth=50), head=dict(in_channels=2048))
