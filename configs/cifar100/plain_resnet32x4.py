# ResNet32x4, 7.43M parameters.
_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.CifarResNet', depth=32, stem_channels=32, base_channels=64),
    head=dict(in_channels=256),
)
