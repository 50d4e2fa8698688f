# WRN-40-2, 2.26M parameters. The class layer of Wide ResNets starts with PyTorch's weights and a zero bias.
_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.WideResNet', depth=40, width=2),
    head=dict(
        in_channels=128,
        init_cfg=dict(
            _delete_=True,
            type='Kaiming',
            layer='Linear',
            a=5**0.5,
            mode='fan_in',
            nonlinearity='leaky_relu',
            distribution='uniform',
            bias=0,
        ),
    ),
)
