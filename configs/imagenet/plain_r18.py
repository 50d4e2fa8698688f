# The plain student of configs/imagenet/*_r34_r18.py, on the same schedule: the one published with CKD (200 epochs, cosine,
# learning rate 0.2 for 512 images, weight decay 1e-4). MMPretrain's own is half as long: 69.90 top-1 after 100 epochs.
_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
train_dataloader = dict(batch_size=64)  # on each of 8 GPUs
optim_wrapper = dict(optimizer=dict(lr=0.2, momentum=0.9, weight_decay=1e-4))
param_scheduler = dict(
    _delete_=True, type='CosineAnnealingLR', T_max=200, by_epoch=True, eta_min=0.0
)
train_cfg = dict(max_epochs=200)
auto_scale_lr = dict(base_batch_size=512)
