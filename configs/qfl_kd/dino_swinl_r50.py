_base_ = ['../_base_/pairs/dino_swinl_r50.py', '../_base_/methods/qfl_kd.py']
model = dict(losses={{_base_.qfl_kd}})
