# ResNet8x4, 1.23M parameters.
_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.CifarResNet', depth=8, stem_channels=32, base_channels=64),
    head=dict(in_channels=256),
)
