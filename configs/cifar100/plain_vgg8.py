# VGG8 with batch norm, 3.97M parameters.
_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.CifarVGG', depth=8),
    head=dict(
        in_channels=512, init_cfg=dict(_delete_=True, type='Normal', layer='Linear', std=0.01)
    ),
)
