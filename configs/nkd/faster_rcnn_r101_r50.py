_base_ = ['../_base_/pairs/faster_rcnn_r101_r50.py', '../_base_/methods/nkd.py']
model = dict(losses={{_base_.nkd}})
