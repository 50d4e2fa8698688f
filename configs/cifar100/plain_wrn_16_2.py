# WRN-16-2, 0.70M parameters.
_base_ = '../_base_/wide_resnet.py'
model = dict(
    backbone=dict(type='mmkd.WideResNet', depth=16, width=2),
    head=dict(in_channels=128),
)
