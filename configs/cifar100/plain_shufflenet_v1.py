# ShuffleNetV1, 0.95M parameters.
_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.CifarShuffleNetV1'),
    head=dict(in_channels=960),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
train_dataloader = dict(batch_size=32)
