# ResNet110, 1.74M parameters.
_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.CifarResNet', depth=110),
    head=dict(in_channels=64),
)
