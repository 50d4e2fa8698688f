# ResNet32, 0.47M parameters.
_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.CifarResNet', depth=32),
    head=dict(in_channels=64),
)
