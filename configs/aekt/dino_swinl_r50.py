_base_ = ['../_base_/pairs/dino_swinl_r50.py', '../_base_/methods/aekt_sigmoid.py']
model = dict(losses={{_base_.aekt}})
