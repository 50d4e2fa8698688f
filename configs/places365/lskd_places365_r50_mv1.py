_base_ = '../_base_/pairs/places365_r50_mv1.py'
model = dict(losses={{_base_.lskd}})
