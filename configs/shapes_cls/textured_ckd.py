_base_ = '../_base_/pairs/textured_cls.py'
model = dict(losses={{_base_.ckd}})
