# The schedule published with CRD, DKD, DIST and LSKD, and that of the teachers: CRD's and mdistiller's code. All students
# have the same batch size.
train_dataloader = dict(batch_size=64)
param_scheduler = dict(
    _delete_=True, type='MultiStepLR', milestones=[150, 180, 210], gamma=0.1, by_epoch=True
)
train_cfg = dict(max_epochs=240)
