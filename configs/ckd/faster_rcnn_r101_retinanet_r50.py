_base_ = ['../_base_/pairs/faster_rcnn_r101_retinanet_r50.py', '../_base_/methods/ckd_sigmoid.py']
model = dict(losses={{_base_.ckd}})
