_base_ = ['../_base_/pairs/faster_rcnn_r101_r50.py', '../_base_/methods/kd.py']
model = dict(losses={{_base_.kd}})
