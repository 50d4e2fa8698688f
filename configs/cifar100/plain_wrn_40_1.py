# WRN-40-1, 0.57M parameters.
_base_ = '../_base_/wide_resnet.py'
model = dict(
    backbone=dict(type='mmkd.WideResNet', depth=40, width=1),
    head=dict(in_channels=64),
)
train_dataloader = dict(batch_size={{_base_.reduced_batch_size}})
