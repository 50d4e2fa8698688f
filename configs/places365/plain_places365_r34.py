# ResNet34: the teacher of places365_r34_r18.
_base_ = './plain_places365_r18.py'
model = dict(backbone=dict(depth=34))
