# The schedule published with CKD for Places365 (arXiv 2404.14109), and with KD and DKD beside it; DKD from ResNet50 to
# MobileNetV1 has half of this learning rate there.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4))
param_scheduler = dict(type='MultiStepLR', milestones=[30, 60, 90], gamma=0.1, by_epoch=True)
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
batch_size = 32  # on each of 8 GPUs
auto_scale_lr = dict(base_batch_size=256)
