_base_ = ['../_base_/pairs/rtmdet_l_s.py', '../_base_/methods/aekt_sigmoid.py']
model = dict(losses={{_base_.aekt}})
