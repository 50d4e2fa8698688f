_base_ = '../_base_/pairs/textured_cls.py'
model = dict(losses=dict(ckd={{_base_.ckd.ckd}}, aekt={{_base_.aekt.aekt}}))
