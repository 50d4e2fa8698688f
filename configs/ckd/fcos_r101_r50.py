_base_ = ['../_base_/pairs/fcos_r101_r50.py', '../_base_/methods/ckd_sigmoid.py']
model = dict(losses={{_base_.ckd}})
