_base_ = ['../_base_/pairs/retinanet_r101_r50.py', '../_base_/methods/box_giou.py']
model = dict(losses={{_base_.box_giou}})
