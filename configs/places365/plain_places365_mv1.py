# MobileNetV1: the student of *_r50_mv1.py.
_base_ = '../_base_/places365.py'
model = dict(backbone=dict(type='mmkd.MobileNetV1'), head=dict(in_channels=1024))
