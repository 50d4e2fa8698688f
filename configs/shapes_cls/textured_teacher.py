# The embedded teacher: the student's network, more than twice as wide and trained twice as long.
_base_ = [
    '../_base_/models/textured_cls.py',
    '../_base_/datasets/textured_cls.py',
    '../_base_/schedules/shapes_cls.py',
    'mmpretrain::_base_/default_runtime.py',
]
model = dict(
    backbone=dict(stem_channels=32, base_channels=32),
    head=dict(in_channels=128),
)
optim_wrapper = dict(optimizer=dict(lr=5e-3))
max_epochs = 24
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
