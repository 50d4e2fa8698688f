# ShuffleNetV2, 1.36M parameters.
_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.CifarShuffleNetV2'),
    head=dict(in_channels=1024),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
