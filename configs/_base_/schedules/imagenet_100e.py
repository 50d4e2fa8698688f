# The schedule published with KD and DKD (mdistiller's code), and that of LSKD's log.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4))
param_scheduler = dict(type='MultiStepLR', milestones=[30, 60, 90], gamma=0.1, by_epoch=True)
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
batch_size = 64  # on each of 8 GPUs
auto_scale_lr = dict(base_batch_size=512)
