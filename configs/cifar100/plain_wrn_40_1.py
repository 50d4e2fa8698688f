# WRN-40-1, 0.57M parameters.
_base_ = './plain_wrn_40_2.py'
model = dict(backbone=dict(width=1), head=dict(in_channels=64))
train_dataloader = dict(batch_size=32)
