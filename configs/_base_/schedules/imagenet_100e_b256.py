# The schedule published with DIST and NKD, which is MMPretrain's own: batches of 256 images.
_base_ = './imagenet_100e.py'
train_dataloader = dict(batch_size=32)  # on each of 8 GPUs
optim_wrapper = dict(optimizer=dict(lr=0.1))
auto_scale_lr = dict(base_batch_size=256)
