_base_ = '../_base_/pairs/places365_r34_r18.py'
model = dict(losses={{_base_.lskd}})
