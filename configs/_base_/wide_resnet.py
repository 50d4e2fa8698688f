# What all Wide ResNets on CIFAR-100 share: a class layer that starts with PyTorch's weights and a zero bias.
_base_ = './cifar100.py'
model = dict(
    head=dict(
        init_cfg=dict(
            _delete_=True,
            type='Kaiming',
            layer='Linear',
            a=5**0.5,
            mode='fan_in',
            nonlinearity='leaky_relu',
            distribution='uniform',
            bias=0,
        )
    )
)
