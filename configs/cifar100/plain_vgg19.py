# VGG19 with batch norm: for teachers and students of your own.
_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.CifarVGG', depth=19),
    head=dict(in_channels=512),
)
