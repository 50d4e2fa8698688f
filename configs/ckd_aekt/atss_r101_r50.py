_base_ = [
    '../_base_/pairs/atss_r101_r50.py',
    '../_base_/methods/ckd_sigmoid.py',
    '../_base_/methods/aekt_sigmoid.py',
]
model = dict(losses=dict(ckd={{_base_.ckd.ckd}}, aekt={{_base_.aekt.aekt}}))
