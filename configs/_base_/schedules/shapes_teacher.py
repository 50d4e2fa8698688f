# The embedded teachers' schedule: the students' with a lower rate and twice as long, from the backbone of the RetinaNet,
# which is trained four times as long, from nothing.
_base_ = './shapes.py'
max_epochs = 8
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, convert_to_iter_based=True),
]
