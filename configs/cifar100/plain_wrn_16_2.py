# WRN-16-2, 0.70M parameters.
_base_ = './plain_wrn_40_2.py'
model = dict(backbone=dict(depth=16))
