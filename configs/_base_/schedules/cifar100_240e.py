# The schedule published with CRD, DKD, DIST and LSKD, and that of the teachers: CRD's and mdistiller's code.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='MultiStepLR', milestones=[150, 180, 210], gamma=0.1, by_epoch=True)
train_cfg = dict(by_epoch=True, max_epochs=240, val_interval=1)
batch_size = 64
reduced_batch_size = 64  # all students have the same
