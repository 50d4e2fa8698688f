# WRN-40-2, 2.26M parameters.
_base_ = '../_base_/wide_resnet.py'
model = dict(
    backbone=dict(type='mmkd.WideResNet', depth=40, width=2),
    head=dict(in_channels=128),
)
