# ResNet18, 11.69M parameters: the student of *_r34_r18.py.
_base_ = '../_base_/imagenet.py'
model = dict(
    backbone=dict(type='ResNet', depth=18, zero_init_residual=False), head=dict(in_channels=512)
)
