_base_ = ['../_base_/pairs/fcos_shapes.py', '../_base_/methods/aekt_sigmoid.py']
model = dict(losses={{_base_.aekt}})
