# The schedule published with KD and DKD (mdistiller's code), and that of LSKD's log.
param_scheduler = dict(
    _delete_=True, type='MultiStepLR', milestones=[30, 60, 90], gamma=0.1, by_epoch=True
)
train_cfg = dict(max_epochs=100)
