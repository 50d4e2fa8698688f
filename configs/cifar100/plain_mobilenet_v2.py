# MobileNetV2 of half width, 0.81M parameters.
_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(type='mmkd.CifarMobileNetV2', width=0.5),
    head=dict(
        in_channels=1280, init_cfg=dict(_delete_=True, type='Normal', layer='Linear', std=0.01)
    ),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
train_dataloader = dict(batch_size=32)
