# MobileNetV1: the student of places365_r50_mv1.
_base_ = './plain_places365_r18.py'
model = dict(backbone=dict(_delete_=True, type='mmkd.MobileNetV1'), head=dict(in_channels=1024))
