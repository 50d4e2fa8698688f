_base_ = ['../_base_/pairs/faster_rcnn_shapes.py', '../_base_/methods/kd.py']
model = dict(losses={{_base_.kd}})
