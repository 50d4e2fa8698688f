_base_ = ['../_base_/pairs/faster_rcnn_r101_r50.py', '../_base_/methods/pkd_rcnn.py']
model = dict(losses={{_base_.pkd}})
