_base_ = ['../_base_/pairs/rtmdet_l_s.py', '../_base_/methods/ckd_sigmoid.py']
model = dict(losses={{_base_.ckd}})
