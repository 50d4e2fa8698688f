# WRN-16-1: for teachers and students of your own.
_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.WideResNet', depth=16, width=1),
    head=dict(in_channels=64),
)
