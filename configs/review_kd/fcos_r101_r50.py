_base_ = ['../_base_/pairs/fcos_r101_r50.py', '../_base_/methods/review_kd.py']
model = dict(losses={{_base_.review_kd}})
