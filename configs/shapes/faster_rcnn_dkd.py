_base_ = ['../_base_/pairs/faster_rcnn_shapes.py', '../_base_/methods/dkd_rcnn.py']
model = dict(losses={{_base_.dkd}})
