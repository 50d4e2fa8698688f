# ResNet20, 0.28M parameters.
_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.CifarResNet', depth=20),
    head=dict(in_channels=64),
)
