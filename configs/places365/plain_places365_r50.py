# ResNet50: the teacher of places365_r50_mv1.
_base_ = './plain_places365_r18.py'
model = dict(backbone=dict(depth=50), head=dict(in_channels=2048))
