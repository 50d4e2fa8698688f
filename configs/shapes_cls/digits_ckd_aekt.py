_base_ = '../_base_/pairs/digits_cls.py'
model = dict(losses=dict(ckd={{_base_.ckd.ckd}}, aekt={{_base_.aekt.aekt}}))
