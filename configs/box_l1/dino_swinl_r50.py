_base_ = ['../_base_/pairs/dino_swinl_r50.py', '../_base_/methods/box_l1.py']
model = dict(losses={{_base_.box_l1}})
