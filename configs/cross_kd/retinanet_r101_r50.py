_base_ = ['../_base_/pairs/retinanet_r101_r50.py', '../_base_/methods/cross_kd.py']
model = dict(losses={{_base_.cross_kd}})
