# ResNet56, 0.86M parameters.
_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.CifarResNet', depth=56),
    head=dict(in_channels=64),
)
