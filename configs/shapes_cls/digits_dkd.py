_base_ = '../_base_/pairs/digits_cls.py'
model = dict(losses={{_base_.dkd}})
