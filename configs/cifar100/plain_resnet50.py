# ResNet50 for 32x32 images, 23.71M parameters.
_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='ResNet_CIFAR', depth=50, zero_init_residual=False),
    head=dict(in_channels=2048),
)
