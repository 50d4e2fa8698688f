_base_ = ['../_base_/pairs/rtmdet_l_s.py', '../_base_/methods/qfl_kd.py']
model = dict(losses={{_base_.qfl_kd}})
