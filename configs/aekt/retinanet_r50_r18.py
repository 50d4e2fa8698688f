_base_ = ['../_base_/pairs/retinanet_r50_r18.py', '../_base_/methods/aekt_sigmoid.py']
model = dict(losses={{_base_.aekt}})
