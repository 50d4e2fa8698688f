_base_ = ['../_base_/pairs/faster_rcnn_shapes.py', '../_base_/methods/aekt_softmax.py']
model = dict(losses={{_base_.aekt}})
