_base_ = '../_base_/pairs/imagenet_r50_mv1.py'
model = dict(losses={{_base_.lskd}})
