# ResNet44: for teachers and students of your own.
_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.CifarResNet', depth=44),
    head=dict(in_channels=64),
)
