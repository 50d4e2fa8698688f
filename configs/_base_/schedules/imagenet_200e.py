# The schedule published with CKD (arXiv 2404.14109), twice as long as that of the methods it is compared with there.
# Here it is the default of every method.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4))
param_scheduler = dict(type='CosineAnnealingLR', T_max=200, eta_min=0.0, by_epoch=True)
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=1)
batch_size = 64  # on each of 8 GPUs
auto_scale_lr = dict(base_batch_size=512)
