_base_ = [
    '../_base_/pairs/fcos_shapes.py',
    '../_base_/methods/ckd_sigmoid.py',
    '../_base_/methods/aekt_sigmoid.py',
]
model = dict(losses=dict(ckd={{_base_.ckd.ckd}}, aekt={{_base_.aekt.aekt}}))
