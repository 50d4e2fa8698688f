_base_ = ['../_base_/pairs/retinanet_shapes.py', '../_base_/methods/aekt_sigmoid.py']
model = dict(losses={{_base_.aekt}})
